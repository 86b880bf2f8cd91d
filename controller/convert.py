"""Runs conversions for the registry: files out of the blobs into a scratch folder, artifacts and card back again."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from controller.blobs import FULL
from controller.conversion_order import request_of
from controller.conversion_outcome import keep
from controller.source_files import scratch_name
from shared import conversion_process
from shared.conversion import ConversionProgress, ConversionRequest, ConversionResult, FailureKind
from shared.conversion_cache import prune
from shared.conversion_folder import lay_out, made
from shared.conversion_process import crashed
from shared.errors import InvalidInputError, NotFoundError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from controller.blobs import Blobs
    from controller.registry.core.types import Card, Conversion, ModelVersion
    from shared.clock import Clock
    from shared.conversion_process import ConvertLimits

_MIN_FREE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertFolders:
    """Where conversions work."""

    scratch: Path
    """One folder for each that runs, and nothing after."""
    cache: Path
    cache_bytes: int
    """What the cache is cut to after every conversion."""
    environments: Path
    """Where front ends are installed."""


class Converter:
    """Runs conversions, each in a process of its own."""

    def __init__(
        self, *, command: tuple[str, ...], blobs: Blobs, folders: ConvertFolders, limits: ConvertLimits, clock: Clock
    ) -> None:
        self._command = command
        self._blobs = blobs
        self._folders = folders
        self._limits = limits
        self._clock = clock
        shutil.rmtree(folders.scratch, ignore_errors=True)
        folders.scratch.mkdir(parents=True)
        folders.cache.mkdir(parents=True, exist_ok=True)

    async def convert(
        self,
        conversion: Conversion,
        version: ModelVersion,
        progress: Callable[[ConversionProgress], Awaitable[None]],
    ) -> tuple[ConversionResult, Card | None]:
        """Return the outcome and the model card; passing artifacts and the card are then among the blobs.

        Raises:
            StorageFullError: no room to work in, or for the artifacts.
        """
        if shutil.disk_usage(self._folders.scratch).free < _MIN_FREE_BYTES:
            raise StorageFullError("the disk has no room for a conversion", retry_after_s=30.0)
        folder = self._folders.scratch / conversion.conversion_id
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            request = await self._request(conversion, version, folder)
            result = await conversion_process.run(
                self._command, request, folder=folder, limits=self._limits, progress=progress
            )
            return await keep(self._blobs, result, made(folder))
        except NotFoundError as exc:
            return ConversionResult(failure=FailureKind.BAD_INPUT, message=f"a file of it is gone: {exc}"), None
        except InvalidInputError as exc:
            return ConversionResult(failure=FailureKind.BAD_INPUT, message=str(exc)), None
        except OSError as exc:
            if exc.errno in FULL:
                raise StorageFullError("the disk has no room for a conversion", retry_after_s=30.0) from exc
            return crashed(f"the scratch folder cannot be used: {exc}"), None
        finally:
            await asyncio.to_thread(self._clear, folder)

    def _clear(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        prune(self._folders.cache, max_bytes=self._folders.cache_bytes, now_s=self._clock.now().timestamp())

    async def _request(self, conversion: Conversion, version: ModelVersion, folder: Path) -> ConversionRequest:
        content = self._blobs.path(version.sha256).resolve()
        source = folder / scratch_name(version.source_format, content)
        source.symlink_to(content)
        request = lay_out(
            folder,
            request_of(conversion, version, self._limits),
            source=source,
            document=await self._blobs.read(conversion.order.dataset_sha256),
            content=lambda sha256: self._blobs.path(sha256).resolve(),
        )
        return msgspec.structs.replace(
            request,
            cache_path=str(self._folders.cache.resolve()),
            environments_path=str(self._folders.environments),
        )
