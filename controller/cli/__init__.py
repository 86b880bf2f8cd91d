"""`litefleet`: everything an operator does but the device itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli import conversion, converters, dataset, device, model, release, rollout
from controller.cli.convert import convert
from controller.cli.demo import demo
from controller.cli.inspect import inspect
from controller.cli.session import Session
from controller.cli.system import broker_app, controller_app, status

DEFAULT_URL = "http://127.0.0.1:8470"
DEFAULT_STATE = Path("~/.local/state/litefleet")

app = typer.Typer(
    name="litefleet",
    help="Bring machine-learning models to fleets of edge devices, carefully.\n\n"
    "Start with `litefleet demo`, which runs the whole job on this machine, or `litefleet controller run`. "
    "`litefleet convert` makes a model small on its own, without a controller.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(convert)
app.command()(inspect)
app.add_typer(conversion.app, name="conversion")
app.add_typer(converters.app, name="converters")
app.add_typer(dataset.app, name="dataset")
app.add_typer(model.app, name="model")
app.add_typer(release.app, name="release")
app.add_typer(device.app, name="device")
app.add_typer(rollout.app, name="rollout")
app.add_typer(controller_app, name="controller")
app.add_typer(broker_app, name="broker")
app.command()(status)
app.command()(demo)


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="LITEFLEET_URL", help="Address of the controller's API.")] = DEFAULT_URL,
    token_file: Annotated[
        Path, typer.Option(envvar="LITEFLEET_TOKEN_FILE", help="File that holds the operator token.")
    ] = DEFAULT_STATE / "operator-token",
) -> None:
    """Remember where the controller is for the command that follows."""
    context.obj = Session(url=url, token_file=token_file.expanduser())


def main() -> None:
    """Run the command line."""
    app(prog_name="litefleet")
