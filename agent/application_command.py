"""`litefleet-agent application`: who may call inference on this device."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.config import load
from agent.grants import add_grant, new_key, read_grants, remove_grants
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from shared.applications import ApplicationGrant

_NEW_KEY = "the key, shown this once; the device keeps its hash alone:"


def run(asked: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code. Raises LitefleetError."""
    path = load(asked.config, os.environ).grants_path
    match asked.verb:
        case "add":
            key = new_key() if asked.key_from is None else _key_from(asked.key_from)
            models = [model.strip() for model in asked.models.split(",")]
            grant = add_grant(path, asked.name, key=key, models=models, requests_per_minute=asked.per_minute)
            _say(_described(grant))
            if asked.key_from is None:
                # On stderr, so that stdout's last line can be taken as the key.
                sys.stderr.write(f"{_NEW_KEY}\n")
                _say(key)
        case "remove":
            remove_grants(path, asked.name)
            _say(f"{asked.name} may call no more")
        case _:
            _show(read_grants(path), as_json=asked.output == "json")
    return os.EX_OK


def _show(grants: Sequence[ApplicationGrant], *, as_json: bool) -> None:
    if as_json:
        _say(msgspec.json.format(msgspec.json.encode(grants)).decode())
        return
    for grant in grants:
        _say(_described(grant))


def _described(grant: ApplicationGrant) -> str:
    quota = "no quota" if grant.requests_per_minute is None else f"{grant.requests_per_minute} a minute"
    return f"{grant.application}: {', '.join(grant.models)}; {quota}; key {grant.key_sha256[:8]}… by its hash"


def _key_from(name: str) -> str:
    """Read a key. Never from an argument: every user of the machine can read those of all processes."""
    try:
        text = sys.stdin.readline() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInputError(field="--key-from", problem=f"{name} cannot be read: {exc}") from exc
    return text.partition("\n")[0].strip()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
