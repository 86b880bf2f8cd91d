"""What rollouts need of other domains; each is implemented there and wired in `controller.app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import ArtifactChoice, DeviceFacts, Misfit, ReleaseFacts, SetRelease
    from shared.hardware import DeviceHardware
    from shared.ids import DeviceId, ModelName, ReleaseId, RolloutId
    from shared.wire import HaltMode, Report


class Cohorts(Protocol):
    """Devices by label query."""

    async def check(self, uow: UnitOfWork, query: str) -> None:
        """Raise InvalidInputError when the query cannot be meant: bad grammar, a label that no device has."""
        ...

    async def iterate(self, uow: UnitOfWork, query: str, after: DeviceId | None, limit: int) -> list[DeviceFacts]:
        """Return the next devices of a cohort, by device id; removed devices are in no cohort."""
        ...

    async def facts(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DeviceFacts]:
        """Return what is known of these devices; removed ones are missing."""
        ...

    async def not_understanding(self, uow: UnitOfWork, ids: Sequence[DeviceId], what: str) -> set[DeviceId]:
        """Return devices whose agent, by its newest report, does not understand something of a Desired."""
        ...


class Releases(Protocol):
    """What can be rolled out."""

    async def facts(self, uow: UnitOfWork, release_id: ReleaseId) -> ReleaseFacts:
        """Return a release. Raises NotFoundError."""
        ...

    async def fit(self, uow: UnitOfWork, release_id: ReleaseId, hardware: DeviceHardware) -> ArtifactChoice | Misfit:
        """Return the artifact of a release for a device of this hardware, or why there is none."""
        ...


class Desires(Protocol):
    """The one writer of what devices should run."""

    async def set_releases(self, uow: UnitOfWork, intents: list[SetRelease]) -> dict[DeviceId, str]:
        """Take over intents, in this transaction; return devices that cannot be told so much, and why."""
        ...

    async def current(
        self, uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName
    ) -> dict[DeviceId, ReleaseId | None]:
        """Return what devices should run of a model now."""
        ...


class Pulses(Protocol):
    """The broadcast that stops a rollout everywhere."""

    async def halt(self, uow: UnitOfWork, rollout_id: RolloutId, mode: HaltMode) -> None:
        """Name a rollout as halted, in this transaction."""
        ...


class VerifiedReport(Protocol):
    """A report whose sender and order are proved."""

    @property
    def device_id(self) -> DeviceId:
        """Who sent it."""
        ...

    @property
    def report(self) -> Report:
        """What it says."""
        ...
