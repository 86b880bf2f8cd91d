"""Runs conversions for the registry: files out of the blobs into a scratch folder, artifacts and card back again."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from controller import conversion_process
from controller.blobs import FULL
from controller.conversion_cache import prune
from controller.conversion_process import crashed
from controller.registry.core.types import Card
from controller.source_files import scratch_name
from shared import dataset
from shared.conversion import ConversionProgress, ConversionRequest, ConversionResult, ConvertedArtifact, FailureKind
from shared.dataset import DATASET_FILE
from shared.errors import InvalidInputError, NotFoundError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.blobs import Blobs
    from controller.conversion_process import ConvertLimits
    from controller.registry.core.types import Conversion, ModelVersion
    from shared.clock import Clock

log = structlog.get_logger(__name__)

_MIN_FREE_BYTES = 64 * 1024 * 1024
# Plots of a few hundred layers, drawn as pictures within the page.
_MAX_CARD_BYTES = 32 * 1024 * 1024


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
            (folder / "out").mkdir(parents=True)
            request = await self._request(conversion, version, folder)
            result = await conversion_process.run(
                self._command, request, folder=folder, limits=self._limits, progress=progress
            )
            return await self._keep(result, folder / "out")
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
        order = conversion.order
        content = self._blobs.path(version.sha256).resolve()
        source = folder / scratch_name(version.source_format, content)
        source.symlink_to(content)
        document = await self._blobs.read(order.dataset_sha256)
        self._lay_out(document, folder / "dataset")
        return ConversionRequest(
            conversion_id=conversion.conversion_id,
            source_path=str(source),
            source_name=f"{version.model}/{version.number} ({version.filename})",
            source_format=version.source_format,
            scratch_path=str(folder / "out"),
            dataset_path=str(folder / "dataset"),
            pipeline=order.pipeline,
            schemes=order.schemes,
            profiles=order.profiles,
            budget=order.budget,
            objective=order.objective,
            runtimes=order.runtimes,
            batch=order.batch,
            image_input=order.image_input,
            threads=self._limits.threads,
            cache_path=str(self._folders.cache.resolve()),
            environments_path=str(self._folders.environments),
            # The rest of the time is for the source before it and the gate after it.
            max_search_s=self._limits.wall_s / 2,
        )

    def _lay_out(self, document: bytes, folder: Path) -> None:
        """Make the folder that `dataset.json` describes, of links to blobs."""
        spec = dataset.decode(document)
        folder.mkdir()
        (folder / DATASET_FILE).write_bytes(document)
        for shard in spec.shards:
            place = folder / shard.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(self._blobs.path(shard.sha256).resolve())

    async def _keep(self, result: ConversionResult, out: Path) -> tuple[ConversionResult, Card | None]:
        """Take the passing artifacts and the card among the blobs, and believe no path and no digest on the way."""
        for artifact in result.artifacts:
            if artifact.refused:
                continue
            problem = await self._keep_one(artifact, out)
            if problem:
                return crashed(f"artifact {artifact.scheme}: {problem}"), None
        if not result.card_path:
            return result, None
        card = Path(result.card_path)
        page = card.with_suffix(".html")
        for path in (card, page):
            problem = _not_a_file(path, out)
            if problem or path.stat().st_size > _MAX_CARD_BYTES:
                # The artifacts stand for themselves; what only describes them may be missing.
                log.warning("card_not_kept", path=path.name, problem=problem or f"over {_MAX_CARD_BYTES} bytes")
                return result, None
        return result, Card(json_sha256=await self._blobs.put_file(card), page_sha256=await self._blobs.put_file(page))

    async def _keep_one(self, artifact: ConvertedArtifact, out: Path) -> str:
        path = Path(artifact.path)
        problem = _not_a_file(path, out) or _not_as_long(path, artifact.length_bytes)
        if problem:
            return problem
        # Hashed while it is copied: the program cannot exchange the file between the check and the copy.
        sha256 = await self._blobs.put_file(path)
        return "" if sha256 == artifact.sha256 else f"its sha256 is {sha256}, not {artifact.sha256}"


def _not_a_file(path: Path, out: Path) -> str:
    if path.is_symlink() or not path.is_file() or out.resolve() not in path.resolve().parents:
        return "its path is no file in the scratch folder"
    return ""


def _not_as_long(path: Path, length_bytes: int) -> str:
    size_bytes = path.stat().st_size
    return "" if size_bytes == length_bytes else f"it has {size_bytes} bytes, not {length_bytes}"
