"""`litefleet controller`, `broker` and `status`: the controller itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.output import OUT, Format, FormatOption, fail, say, show_json
from controller.cli.session import EXIT_USAGE, session
from controller.toml import write_settings
from shared.clock import SystemClock
from shared.errors import LitefleetError

controller_app = typer.Typer(help="The controller: set one up, run it.", no_args_is_help=True)
broker_app = typer.Typer(help="The MQTT broker's configuration.", no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", exists=True, dir_okay=False, help="The controller.toml.")]

_CONFIG_NAME = "controller.toml"


@controller_app.command("init")
def init(
    state: Annotated[Path, typer.Option(help="Folder of all that the controller keeps; made if missing.")],
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name or address by which devices reach this machine; repeat. Default: localhost."),
    ] = None,
    database_url: Annotated[
        str, typer.Option(envvar="LITEFLEET_CONTROLLER_DATABASE_URL", help="Default: SQLite.")
    ] = "",
    broker_port: Annotated[int, typer.Option(help="TCP port of the broker.")] = 8883,
) -> None:
    """Write a first controller.toml, and the configuration of a mosquitto that knows this installation's devices."""
    folder = state.expanduser().absolute()
    config = folder / _CONFIG_NAME
    if config.exists():
        fail(f"{config} exists already", remedy="edit it, or choose another --state", code=EXIT_USAGE)
    names = name or ["localhost", "127.0.0.1"]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_settings(config, {"state_dir": str(folder), "device_names": names, "broker_port": broker_port})
    except OSError as exc:
        fail(f"cannot write {config}: {exc.strerror}", code=EXIT_USAGE)
    if database_url:  # it may hold a password, so it stays in the environment
        say("the database's URL is read from LITEFLEET_CONTROLLER_DATABASE_URL; it was not written down")
    written = _write_broker(config, host="0.0.0.0")  # noqa: S104 - mutual TLS; devices come from elsewhere
    say(f"wrote {config}\nwrote {written}\n")
    say(f"next: mosquitto -c {written}")
    say(f"      litefleet controller run --config {config}")
    say(f"      export LITEFLEET_TOKEN_FILE={folder / 'operator-token'}      # for all other commands")


@controller_app.command("run")
def run(config: ConfigOption) -> None:
    """Run the controller in the foreground until SIGTERM."""
    os.execv(sys.executable, [sys.executable, "-m", "controller", "--config", str(config)])  # noqa: S606 - no shell


@broker_app.command("config")
def broker_config(
    config: ConfigOption,
    host: Annotated[str, typer.Option(help="Address on which the broker listens.")] = "0.0.0.0",  # noqa: S104 - as above
) -> None:
    """Write mosquitto's configuration again, after names, ports or certificates changed."""
    say(f"wrote {_write_broker(config, host=host)}")


LoginArgument = Annotated[str, typer.Argument(help="Application and one of its programs: shop.till.")]


@broker_app.command("admit")
def broker_admit(
    config: ConfigOption,
    login: LoginArgument,
    key_from: Annotated[
        typer.FileText, typer.Option("--key-from", help="File whose first line is the application's key; - for stdin.")
    ],
) -> None:
    """Let an application's program in at the broker, by the application's key."""
    from controller.trust.broker_logins import admit

    folder = _broker_folder(config)
    try:
        admit(folder, login, key_from.readline().strip())
    except (LitefleetError, OSError) as exc:
        fail(str(exc), code=EXIT_USAGE)
    say(f"{login} may ask devices by the broker, once that has read {folder}/applications again (SIGHUP)")


@broker_app.command("expel")
def broker_expel(config: ConfigOption, login: LoginArgument) -> None:
    """Let an application's program in at the broker no more."""
    from controller.trust.broker_logins import expel

    folder = _broker_folder(config)
    try:
        expel(folder, login)
    except (LitefleetError, OSError) as exc:
        fail(str(exc), code=EXIT_USAGE)
    say(f"{login} is let in no more, once the broker has read {folder}/applications again (SIGHUP)")


@broker_app.command("logins")
def broker_logins(config: ConfigOption) -> None:
    """Show who is let in at the broker."""
    from controller.trust.broker_logins import logins

    try:
        for login in logins(_broker_folder(config)):
            say(login)
    except (LitefleetError, OSError) as exc:
        fail(str(exc), code=EXIT_USAGE)


def _broker_folder(config: Path) -> Path:
    from controller.config import load

    try:
        return load(config, os.environ).state_dir / "broker"
    except LitefleetError as exc:
        fail(str(exc), code=EXIT_USAGE)


def _write_broker(config: Path, *, host: str) -> Path:
    from controller.config import load
    from controller.trust.authority import Authority
    from controller.trust.broker_config import write_broker_config

    try:
        settings = load(config, os.environ)
        authority = Authority.open(settings.state_dir / "authority", SystemClock())
        return write_broker_config(
            settings.state_dir / "broker",
            authority,
            host=host,
            port=settings.broker_port,
            names=[*settings.device_names, *settings.broker_names],
            application_port=settings.broker_application_port,
        )
    except (LitefleetError, OSError) as exc:
        fail(str(exc), code=EXIT_USAGE)


def status(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """Show the controller itself: whether it runs, reaches its broker, and how its keys are kept."""
    found = session(context).run(lambda api: api.status())
    if output is Format.JSON:
        show_json(found)
        return
    OUT.print(f"installation  {found.installation_id}  (litefleet {found.version})")
    OUT.print(f"devices       {found.devices}")
    OUT.print(f"broker        {'connected' if found.broker_connected else '[red]not connected[/red]'}")
    keys = "[yellow]lab mode: all signing keys are on the controller[/yellow]" if found.lab_mode else "offline root"
    OUT.print(f"keys          {keys}")
