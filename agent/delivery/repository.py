"""What the repository's signatures say exists, asked of a short-lived child that holds python-tuf's memory and time.

`python -m agent.delivery.repository` is that child: one JSON request on stdin, one JSON reply on stdout.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from agent.delivery.child import ask
from shared.decoding import MALFORMED
from shared.errors import StorageFullError, UnreachableError, UntrustedError
from shared.ids import HardwareProfileId, InstallationId, KeyId, Sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

DIRECTOR_PATH = "director.json"
"""Pseudo target of the top-level targets role, whose signed note names the director's keys."""


class RepositorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the repository is, what it must descend from, and how patient to be with it."""

    base_url: str
    """`https://host:port/device/v1/tuf`; metadata lie below it at `metadata/`."""
    metadata_dir: str
    """`{state}/tuf`: the newest verified metadata, which guard against rollback."""
    root: bytes
    """Root metadata that enrolment brought."""
    identity_dir: str
    """`{state}/identity`: certificate and authority for TLS."""
    deadline_s: float = 180.0
    """For everything together; covers a cold start (30 kB in some eight requests) at the slowest allowed rate."""
    min_rate_bytes_s: int = 1024
    """A server slower than this is refused, so that it cannot hold a device for ever."""
    grace_s: float = 10.0
    """The rate is judged over spans of this length, and no answer at all may take longer."""


class DirectorTrust(msgspec.Struct, frozen=True, kw_only=True):
    """Who may seal Desired and Pulse, by word of the top-level targets role alone."""

    keys: dict[KeyId, str]
    """Raw ed25519 public keys, 64 hexadecimal digits, by `signing.key_id`."""
    min_release_counter: int
    installation_id: InstallationId
    expires_at: datetime
    """End of the top-level targets metadata that says so."""


class VerifiedTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One file that the repository vouches for."""

    length_bytes: int
    sha256: Sha256
    release_counter: int
    profiles: tuple[HardwareProfileId, ...]


class VerifiedTargets(msgspec.Struct, frozen=True, kw_only=True, tag="verified"):
    """Everything that was asked for and verified, at one state of the repository."""

    director: DirectorTrust
    files: dict[str, VerifiedTarget]
    """By path. A path that is missing here is not released, whoever else names it."""
    fresh_until: datetime
    """End of the timestamp: the soonest of all expiries."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """stdin of the child."""

    settings: RepositorySettings
    targets: tuple[str, ...]
    optional: tuple[str, ...] = ()
    """Looked up after `targets`; whatever goes wrong with one of them, it only counts as not there."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Something did not verify."""

    message: str


class Away(msgspec.Struct, frozen=True, kw_only=True, tag="away"):
    """No whole answer, or not in time."""

    message: str


class Full(msgspec.Struct, frozen=True, kw_only=True, tag="full"):
    """No room for the metadata."""

    message: str


Reply = VerifiedTargets | Refused | Away | Full

_REPLY: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


async def refresh(settings: RepositorySettings, targets: list[str], *, optional: Sequence[str] = ()) -> VerifiedTargets:
    """Bring the metadata up to date and look up `targets` (an empty list asks for the director only).

    Those that are `optional` are among the files returned where the repository vouches for them; no trouble with one of
    them is an error.

    Raises:
        UntrustedError: something did not verify, so that nothing of it may be used; the last good state stands.
        UnreachableError: no whole answer in time.
        StorageFullError: no room for the metadata.
    """
    request = msgspec.json.encode(Request(settings=settings, targets=tuple(targets), optional=tuple(optional)))
    reply = await _ask_child(request, settings.deadline_s)
    match reply:
        case VerifiedTargets():
            return reply
        case Refused(message=message):
            raise UntrustedError(message)
        case Away(message=message):
            raise UnreachableError(message)
        case Full(message=message):
            raise StorageFullError(message)


async def _ask_child(request: bytes, deadline_s: float) -> Reply:
    try:
        stdout, end = await ask(__name__, request, deadline_s=deadline_s)
    except TimeoutError as exc:
        raise UnreachableError(f"the repository took longer than {deadline_s:g} s") from exc
    try:
        return _REPLY.decode(stdout)
    except MALFORMED as exc:
        # A child that died (of memory, of a signal) says nothing about the repository: it may be asked again.
        raise UnreachableError(f"the repository check {end}") from exc


if __name__ == "__main__":
    from agent.delivery.tuf_client import main

    main()
