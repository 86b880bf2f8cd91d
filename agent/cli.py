"""`litefleet-agent`: enrol a device, run it, look at it, say who may call it; serve or measure one file."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import LitefleetError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: the same command may succeed later."""

_CONFIG_NAME = "agent.toml"
_EXIT_CODES = f"exit codes: {EXIT_OK} done, {EXIT_FAILED} refused, 2 wrong usage, {EXIT_TRY_AGAIN} try again later"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; returns the exit code. Errors go to stderr in one line."""
    asked = _parser().parse_args(arguments)
    try:
        return _do(asked)
    except RetryableError as exc:
        return _complain(f"{exc}; try again in {exc.retry_after_s:.0f} s", EXIT_TRY_AGAIN)
    except LitefleetError as exc:
        return _complain(str(exc), EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="litefleet-agent",
        description="The litefleet device daemon: receives signed models and serves them.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"litefleet-agent {metadata.version('litefleet')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    enrol = commands.add_parser(
        "enrol",
        help="make this machine a device of an installation",
        description="Make a key on this machine, have the controller certify it, and write the identity. "
        "May be repeated until it succeeds.",
        epilog=_EXIT_CODES,
    )
    enrol.add_argument("--invite", type=Path, required=True, metavar="FILE", help="JSON that the operator handed over")
    enrol.add_argument("--state", type=Path, required=True, metavar="DIR", help="folder of all that the agent keeps")

    run = commands.add_parser("run", help="run the agent in the foreground", description="Run the agent until SIGTERM.")
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help=f"settings, e.g. DIR/{_CONFIG_NAME}")

    _add_serve_parser(commands)
    _add_bench_parser(commands)
    _add_application_parser(commands)
    _add_reading_parsers(commands)
    return parser


def _add_serve_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a local .tflite file or release folder on loopback, unverified, for development",
        description="Serve a local file, or a release's folder with its pipeline, on loopback without a controller. "
        "Nothing about it is verified. A folder is one of an agent's releases/: manifest.json, model.tflite, and "
        "components/ where its pipeline runs other models.",
        epilog=_EXIT_CODES,
    )
    serve.add_argument(
        "file", type=Path, metavar="FILE.tflite|RELEASE_FOLDER", help="the model, or a folder with its manifest.json"
    )
    serve.add_argument("--name", required=True, help="what callers call the model: a-z, 0-9 and -")
    serve.add_argument(
        "--http-port", type=_port, default=8080, metavar="N", help="loopback port (%(default)s); 0 = any"
    )
    serve.add_argument("--grpc-port", type=_port, metavar="N", help="loopback port for gRPC too; 0 = any")
    serve.add_argument("--unix-socket", type=Path, metavar="PATH", help="unix socket too, for this user's group")
    serve.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin whose pages may call from a browser; repeatable",
    )


def _add_reading_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    log = commands.add_parser(
        "log",
        help="print the requests that were written down, one CloudEvent a line",
        description="Print what request-log/ in the state folder holds, oldest first, as JSON lines. A device writes "
        "requests down when their release consents and the operator asks: `litefleet device request-log set`.",
        epilog=_EXIT_CODES,
    )
    log.add_argument("--config", type=Path, required=True, metavar="FILE", help="the agent's settings")
    log.add_argument("--model", metavar="NAME", help="of this model only")
    status = commands.add_parser("status", help="show who this device is and what it holds")
    status.add_argument("--state", type=Path, required=True, metavar="DIR", help="the agent's state folder")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form (%(default)s)")


def _add_bench_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure a local model on this device, bare and by every protocol",
        description="Load a model as the agent does and print what it found out about it; then measure the bare "
        "invocation, the pipeline without a server, and a real server on loopback that is asked over one connection in "
        "every protocol, in turns. CPU is the figure to trust: it is that of all the server's threads for one answer, "
        "whatever else this device does meanwhile.",
        epilog=f"example: litefleet-agent bench release/ --item photo.jpg -o json; {_EXIT_CODES}",
    )
    bench.add_argument(
        "file", type=Path, metavar="FILE.tflite|RELEASE_FOLDER", help="the model, or a folder with its manifest.json"
    )
    bench.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each way of asking (%(default)g)")
    bench.add_argument(
        "--item", type=Path, metavar="FILE", help="image or sound to ask with (one is made up), if the pipeline decodes"
    )
    bench.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form (%(default)s)")


def _add_application_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "application",
        help="say which applications may call inference on this device",
        description="Applications whose key opens this device's models. A running agent takes a change within seconds.",
    )
    verbs = command.add_subparsers(dest="verb", required=True, metavar="VERB")

    add = verbs.add_parser("add", help="let an application in, and print its new key once")
    add.add_argument("name", metavar="NAME", help="the application: a-z, 0-9 and -")
    add.add_argument("--models", required=True, metavar="A,B", help="models that it may ask, by commas; * for all")
    add.add_argument("--per-minute", type=int, metavar="N", help="requests a minute, a batch as its items (no limit)")
    add.add_argument(
        "--key-from", metavar="FILE", help="take this file's first line as the key (- for stdin) and print none"
    )
    listing = verbs.add_parser("list", help="show the applications, without their keys")
    listing.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form (%(default)s)")
    remove = verbs.add_parser("remove", help="let an application in no more, by any of its keys")
    remove.add_argument("name", metavar="NAME", help="the application")
    for verb in (add, listing, remove):
        verb.add_argument("--config", type=Path, required=True, metavar="FILE", help="the agent's settings")


def _port(text: str) -> int:
    highest = 65_535
    if not text.isdigit() or int(text) > highest:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to {highest}")
    return int(text)


def _do(asked: argparse.Namespace) -> int:
    match asked.command:
        case "enrol":
            return _enrol(asked.invite, asked.state.absolute())
        case "run":
            return _run(asked.config)
        case "serve":
            return _serve(asked)
        case "bench":
            return _bench(asked)
        case "application":
            return _application(asked)
        case "log":
            return _log(asked.config, asked.model)
        case _:
            return _status(asked.state.absolute(), as_json=asked.output == "json")


def _enrol(invite_path: Path, state_dir: Path) -> int:
    from agent.link.enrol import enrol, read_invite
    from agent.link.hardware import this_hardware

    identity = asyncio.run(enrol(read_invite(invite_path), state_dir=state_dir, hardware=this_hardware()))
    config = _write_config(state_dir)
    _say(f"enrolled as {identity.device_id} at site {identity.site}, installation {identity.installation_id}")
    _say(f"the invite is spent; remove {invite_path}")
    _say(f"next: litefleet-agent run --config {config}")
    return EXIT_OK


def _write_config(state_dir: Path) -> Path:
    """Write settings to begin with, unless an operator has written some, and return where they are."""
    path = state_dir / _CONFIG_NAME
    # A JSON string is a TOML basic string too.
    text = (
        "# Settings of this device; every other one has a default, and an unknown one is refused.\n"
        f"state_dir = {json.dumps(str(state_dir))}\n"
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        pass
    return path


def _run(config: Path) -> int:
    """Become the supervisor: the same process, so that whoever started this command signals the right one."""
    from agent.config import load

    # Before the supervisor starts over and over what can never start.
    load(config, os.environ)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "agent", "--config", str(config)])  # noqa: S606 - no shell is wanted


def _serve(asked: argparse.Namespace) -> int:
    from agent.logs import set_up_for_people
    from agent.serving.local import LocalDoors, serve_file

    set_up_for_people()
    doors = LocalDoors(
        http_port=asked.http_port,
        grpc_port=asked.grpc_port,
        unix_socket=asked.unix_socket,
        cors_origins=tuple(asked.cors_origin),
    )
    serve_file(asked.file, name=asked.name, doors=doors)
    return EXIT_OK


def _bench(asked: argparse.Namespace) -> int:
    import msgspec

    from agent.logs import set_up_for_people
    from agent.serving.bench.bench_table import render
    from agent.serving.bench.run import bench

    set_up_for_people()
    report = bench(asked.file, seconds=asked.seconds, item=asked.item)
    as_json = asked.output == "json"
    _say(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else render(report))
    return EXIT_OK


def _application(asked: argparse.Namespace) -> int:
    from agent.application_command import run

    return run(asked)


def _log(config: Path, model: str | None) -> int:
    from agent.config import load
    from agent.serving.recording import segments

    prefix = f'"source":"/models/{model}/releases/'.encode() if model is not None else b""
    for line in segments.lines(load(config, os.environ).request_log_dir):
        if prefix in line:
            sys.stdout.buffer.write(line)
    sys.stdout.flush()
    return EXIT_OK


def _status(state_dir: Path, *, as_json: bool) -> int:
    from agent.status import device_status, render_text

    status = device_status(state_dir)
    if as_json:
        import msgspec

        _say(msgspec.json.format(msgspec.json.encode(status)).decode())
    else:
        _say(render_text(status))
    return EXIT_OK


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"litefleet-agent: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
