"""What the fleet needs from other domains, as it sees them; wired in `app.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DesiredFacts, IssuedCertificate
    from shared.ids import BootId, DeviceId, Sha256


class Certificates(Protocol):
    """The device authority (trust)."""

    @property
    def ca_pem(self) -> bytes:
        """The authority's own certificate."""
        ...

    def fingerprint_of_request(self, csr_pem: bytes) -> Sha256:
        """Return the fingerprint of the requested key. Raises InvalidInputError."""
        ...

    def issue_device(self, csr_pem: bytes, device: DeviceId) -> IssuedCertificate:
        """Certify the requested key in the device's name. Raises InvalidInputError."""
        ...


class MacKeys(Protocol):
    """The keys of upward messages (trust)."""

    def mac_key(self, device: DeviceId, boot_id: BootId) -> bytes:
        """Return the key of one device for one boot."""
        ...


class Desires(Protocol):
    """What devices should run (desired)."""

    async def show(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DesiredFacts]:
        """Return what the devices should run; those of which nothing is desired are absent."""
        ...

    async def identity_changed(self, uow: UnitOfWork, device: DeviceId) -> None:
        """A new key speaks for the device: seal for it what was sealed for another, or for none."""
        ...

    async def clear(self, uow: UnitOfWork, device: DeviceId) -> None:
        """The device is gone: nothing is desired of it any more."""
        ...


class Sealed(Protocol):
    """Sealed documents to hand out over HTTPS (desired)."""

    async def sealed_for(self, device: DeviceId) -> bytes | None:
        """Return the device's sealed Desired, or None."""
        ...


class RequestRecords(Protocol):
    """Requests that devices wrote down (telemetry)."""

    async def take(self, device: DeviceId, lines: bytes) -> None:
        """Keep what is new of a device's lines. Raises InvalidInputError."""
        ...


class Broadcast(Protocol):
    """The Pulse (desired)."""

    async def sealed_pulse(self) -> bytes:
        """Return the newest sealed Pulse."""
        ...


class AccessList(Protocol):
    """Whom the broker turns away (trust)."""

    async def deny(self, denied: Sequence[DeviceId]) -> None:
        """Cut these devices off, and no others."""
        ...


class TargetFile(Protocol):
    """A file that the repository vouches for."""

    @property
    def sha256(self) -> Sha256:
        """Its digest, which is its name among the blobs."""
        ...


class TargetFiles(Protocol):
    """The repository's files by path (trust)."""

    async def find(self, path: str) -> TargetFile:
        """Return what is vouched for under a path. Raises NotFoundError."""
        ...
