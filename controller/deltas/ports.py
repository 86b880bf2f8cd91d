"""What deltas need of other domains; wired in `controller.wiring`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import ArtifactFacts, PublishedFile, RunningRollout
    from shared.ids import HardwareProfileId, ModelName, ReleaseId, Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDelta:
    """What the program that makes deltas came to."""

    sha256: Sha256 | None
    """Its name among the blobs; None when it is not worth it, or failed."""
    length_bytes: int
    problem: str = ""


class Maker(Protocol):
    """Makes the difference of two blobs, somewhere."""

    async def make(self, old: Sha256, new: Sha256) -> MadeDelta:
        """Return what came of it; a delta is then among the blobs.

        Raises:
            StorageFullError: no room to work in, or for the delta.
        """
        ...


class Rollouts(Protocol):
    """What is being brought to devices."""

    async def running(self, uow: UnitOfWork) -> list[RunningRollout]:
        """Return the rollouts that have not ended."""
        ...


class Desires(Protocol):
    """What devices run."""

    async def releases_of(self, uow: UnitOfWork, model: ModelName, limit: int) -> list[ReleaseId]:
        """Return the releases of a model that devices should run now, the most common first."""
        ...


class Releases(Protocol):
    """What releases are made of."""

    async def artifacts(self, uow: UnitOfWork, release_id: ReleaseId) -> Mapping[HardwareProfileId, ArtifactFacts]:
        """Return a release's artifact for each profile that it serves. Raises NotFoundError."""
        ...


class Publisher(Protocol):
    """The repository that devices trust."""

    async def publish(self, files: Sequence[PublishedFile]) -> None:
        """Vouch for files; those that are published already are left alone. Raises RetryableError, PermanentError."""
        ...
