"""What desired state needs from other domains; wired in `app.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import OutgoingMessage
    from shared.ids import DeviceId, Sha256
    from shared.wire import Desired, Pulse


class Sealer(Protocol):
    """The director (trust)."""

    def desired(self, document: Desired) -> bytes:
        """Seal what one device should run."""
        ...

    def pulse(self, document: Pulse) -> bytes:
        """Seal the broadcast."""
        ...


class Identities(Protocol):
    """Which key speaks for which device (fleet)."""

    async def fingerprints(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, Sha256]:
        """Return the fingerprints of devices that are enrolled."""
        ...


class Broker(Protocol):
    """The way down to devices (mqtt)."""

    @property
    def connections(self) -> int:
        """How often the broker has taken us; 0 before the first time."""
        ...

    @property
    def connected(self) -> bool:
        """Whether it is there now."""
        ...

    async def publish(self, messages: Sequence[OutgoingMessage]) -> list[bool]:
        """Publish, and say of each message whether the broker confirmed it; never raises for a broker that is away."""
        ...

    async def sentinel(self) -> bytes | None:
        """Return the sentinel that the broker retains, or None when it has lost it."""
        ...
