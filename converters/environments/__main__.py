"""`python -m converters.environments install|list|remove`: the environments that front ends run in."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from converters.environments.installed import EnvironmentState, install, remove, states
from converters.environments.located import ROOT_VARIABLE, Environment
from shared.errors import LitefleetError

_NAMES = [environment.value for environment in Environment if environment is not Environment.BASE]


def main(arguments: list[str]) -> int:
    """Do what is asked; exit code 1, and why on stderr, when that fails."""
    given = _parser().parse_args(arguments)
    try:
        match given.command:
            case "install":
                _install(Environment(given.name), given.root, as_json=given.json)
            case "remove":
                _remove(Environment(given.name), given.root, as_json=given.json)
            case _:
                _list(given.root, as_json=given.json)
    except LitefleetError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", type=Path, help=f"folder of the environments (else ${ROOT_VARIABLE}, or your own)")
    common.add_argument("--json", action="store_true", help="JSON lines instead of text")
    parser = argparse.ArgumentParser(prog="python -m converters.environments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("install", "remove"):
        commands.add_parser(command, parents=[common]).add_argument("name", choices=_NAMES)
    commands.add_parser("list", parents=[common])
    return parser


def _install(environment: Environment, root: Path | None, *, as_json: bool) -> None:
    def say(step: str) -> None:
        _write({"environment": environment, "step": step} if as_json else f"{environment}: {step}")

    made = install(environment, root, say)
    _write(made if as_json else f"{environment}: {_size(made)} in {made.path}")


def _remove(environment: Environment, root: Path | None, *, as_json: bool) -> None:
    removed = remove(environment, root)
    if as_json:
        _write({"environment": environment, "removed": removed})
    else:
        _write(f"{environment}: removed {', '.join(removed)}" if removed else f"{environment}: nothing to remove")


def _list(root: Path | None, *, as_json: bool) -> None:
    for state in states(root):
        _write(state if as_json else f"{state.environment.value:8}{_described(state)}")


def _described(state: EnvironmentState) -> str:
    if state.installed:
        return f"installed, {_size(state)} in {state.path}"
    if state.built_in:
        return "built in: this Python has its libraries"
    return f"not installed: litefleet converters install {state.environment}"


def _size(state: EnvironmentState) -> str:
    return f"{state.size_bytes / 1e9:.1f} GB"


def _write(line: object) -> None:
    text = line if isinstance(line, str) else msgspec.json.encode(line).decode()
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
