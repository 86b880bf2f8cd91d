"""Becoming a device of an installation: a key made here, a certificate from there."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from shared.ids import DeviceId

if TYPE_CHECKING:
    from pathlib import Path

    from agent.link.identity import Identity
    from shared.hardware import DeviceHardware


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator hands to a new device: the reply of `POST /devices`, as a JSON file."""

    device_id: DeviceId
    token: str
    """One-time secret; bound to the first key that uses it."""
    expires_at: datetime
    controller_url: str
    ca_pem: str
    """Authority that the controller's certificate must descend from: no other is believed."""


async def enrol(invite: Invite, *, state_dir: Path, hardware: DeviceHardware) -> Identity:
    """Make a key, have it certified, and write the identity files, `identity.json` last.

    A lost reply costs nothing: the key stays, and the controller lets the same key try the same token again.

    Raises:
        ConflictError: this state folder already holds an identity.
        InvalidInputError: the invite is not (or no longer) good.
        UnreachableError: the controller did not answer; the same call may be repeated.
        UntrustedError: the answer does not fit the key or the invite.
    """
    raise NotImplementedError
