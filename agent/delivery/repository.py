"""What the repository's signatures say exists, asked of a short-lived child that holds python-tuf's memory and time.

`python -m agent.delivery.repository` is that child: one JSON request on stdin, one JSON reply on stdout.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from shared.ids import HardwareProfileId, InstallationId, KeyId, Sha256


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
    """Raw ed25519 public keys in hex, by `signing.key_id`."""
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


async def refresh(settings: RepositorySettings, targets: list[str]) -> VerifiedTargets:
    """Bring the metadata up to date and look up `targets` (an empty list asks for the director only).

    Raises:
        UntrustedError: something did not verify, so that nothing of it may be used; the last good state stands.
        UnreachableError: no whole answer in time.
        StorageFullError: no room for the metadata.
    """
    raise NotImplementedError
