"""What traffic needs of other domains; wired in `controller.wiring`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import ArtifactChoice, DesiredFacts, DeviceFacts, Misfit, ModelTraffic, ReleaseFacts
    from shared.hardware import DeviceHardware
    from shared.ids import DeviceId, ModelName, ReleaseId, RolloutId
    from shared.wire import HaltMode


class Devices(Protocol):
    """The fleet, as cohorts."""

    async def check(self, uow: UnitOfWork, query: str) -> None:
        """Raise InvalidInputError when the query cannot be meant."""
        ...

    async def iterate(self, uow: UnitOfWork, query: str, after: DeviceId | None, limit: int) -> list[DeviceFacts]:
        """Return the next devices of a cohort, by device id."""
        ...

    async def facts(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DeviceFacts]:
        """Return what is known of these devices; removed ones are missing."""
        ...

    async def not_understanding(self, uow: UnitOfWork, ids: Sequence[DeviceId], what: str) -> set[DeviceId]:
        """Return devices whose agent, by its newest report, does not understand something of a Desired."""
        ...


class Releases(Protocol):
    """What can be brought to devices."""

    async def facts(self, uow: UnitOfWork, release_id: ReleaseId) -> ReleaseFacts:
        """Return a release. Raises NotFoundError."""
        ...

    async def fit(self, uow: UnitOfWork, release_id: ReleaseId, hardware: DeviceHardware) -> ArtifactChoice | Misfit:
        """Return the artifact of a release for a device of this hardware, or why there is none."""
        ...


class Desires(Protocol):
    """The one writer of what devices should run."""

    async def show(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DesiredFacts]:
        """Return what the devices should run; those of which nothing was ever desired are absent."""
        ...

    async def current(
        self, uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName
    ) -> dict[DeviceId, ReleaseId | None]:
        """Return what rollouts have devices run of a model now."""
        ...

    async def traffic(self, uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName) -> dict[DeviceId, ModelTraffic]:
        """Return what is set of a model on each of these devices."""
        ...

    async def set_traffic(
        self, uow: UnitOfWork, model: ModelName, wanted: Mapping[DeviceId, ModelTraffic]
    ) -> dict[DeviceId, str]:
        """Set it, in this transaction; return devices that cannot be told so much, and why."""
        ...

    async def set_by(self, uow: UnitOfWork, rollout: RolloutId) -> bool:
        """Tell whether some device's variant came with the change of this id."""
        ...

    async def halted(self, uow: UnitOfWork, rollouts: Collection[RolloutId]) -> set[RolloutId]:
        """Return which of these are halted."""
        ...


class Pulses(Protocol):
    """The broadcast that takes a change back everywhere."""

    async def halt(self, uow: UnitOfWork, rollout_id: RolloutId, mode: HaltMode) -> None:
        """Name a change as halted, in this transaction."""
        ...
