"""What the registry needs of others; wired in app.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import PublishedFile
    from controller.registry.core.types import Conversion
    from shared.conversion import ConversionProgress, ConversionResult
    from shared.ids import ReleaseId, Sha256


class Publisher(Protocol):
    """The repository that devices trust."""

    async def publish(self, files: Sequence[PublishedFile]) -> None:
        """Vouch for files; those that are published already are left alone. Raises RetryableError, UntrustedError."""
        ...


class ReleaseUse(Protocol):
    """Whoever may still need a release."""

    async def in_use(self, uow: UnitOfWork, release_id: ReleaseId) -> str:
        """Return by what a release is used, in words; empty when by nothing."""
        ...


class Worker(Protocol):
    """Converts a model, somewhere."""

    async def convert(
        self,
        conversion: Conversion,
        source: Sha256,
        progress: Callable[[ConversionProgress], Awaitable[None]],
    ) -> ConversionResult:
        """Return the outcome; passing artifacts are then among the blobs.

        Raises:
            StorageFullError: no room to work in, or for the artifacts.
        """
        ...
