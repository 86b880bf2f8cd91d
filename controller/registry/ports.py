"""What the registry needs of others; wired in app.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DeviceFacts, PublishedFile
    from controller.registry.core.types import Card, Conversion, ModelVersion
    from shared.conversion import ConversionProgress, ConversionResult, RuntimeVersion
    from shared.ids import DeviceId, ReleaseId
    from shared.wire import WantedMeasurement


class Publisher(Protocol):
    """The repository that devices trust."""

    async def publish(self, files: Sequence[PublishedFile]) -> None:
        """Vouch for files; those that are published already are left alone. Raises RetryableError, UntrustedError."""
        ...


class SignedDocuments(Protocol):
    """The repository's metadata, to be carried where no controller is."""

    async def documents(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the signed documents that vouch for paths, by file name."""
        ...


class ReleaseUse(Protocol):
    """Whoever may still need a release."""

    async def in_use(self, uow: UnitOfWork, release_id: ReleaseId) -> str:
        """Return by what a release is used, in words; empty when by nothing."""
        ...


class Devices(Protocol):
    """The fleet, as far as a device's hardware goes."""

    async def facts(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DeviceFacts]:
        """Return facts of devices; unknown and removed ones are absent."""
        ...


class Desires(Protocol):
    """How devices are asked to time artifacts."""

    async def set_measurements(self, uow: UnitOfWork, device: DeviceId, wanted: Sequence[WantedMeasurement]) -> None:
        """Have a device time these artifacts and no others."""
        ...


class Runtimes(Protocol):
    """Interpreters that the fleet has."""

    async def runtimes(self, uow: UnitOfWork) -> tuple[RuntimeVersion, ...]:
        """Return each one once, in a fixed order."""
        ...


class Worker(Protocol):
    """Converts a model, somewhere."""

    async def convert(
        self,
        conversion: Conversion,
        version: ModelVersion,
        progress: Callable[[ConversionProgress], Awaitable[None]],
    ) -> tuple[ConversionResult, Card | None]:
        """Return the outcome and the model card; passing artifacts and the card are then among the blobs.

        Canceled, it leaves nothing running and nothing behind.

        Raises:
            StorageFullError: no room to work in, or for the artifacts.
        """
        ...
