"""A conversion on this machine, without a controller: the same worker within the same limits."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.conversion_options import source_of
from controller.cli.output import fail
from controller.cli.program import check_installed
from controller.cli.session import EXIT_INTERRUPTED, EXIT_USAGE
from controller.dataset_folder import read
from controller.registry.core.choice import wanted_schemes
from controller.source_files import scratch_name
from shared import conversion_process
from shared.clock import SystemClock, mint_id
from shared.conversion import ConversionRequest
from shared.conversion_cache import prune
from shared.conversion_process import ConvertLimits, environments_folder
from shared.errors import InvalidInputError
from shared.ids import ConversionId

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.conversion import (
        AccuracyBudget,
        ConversionProgress,
        ConversionResult,
        Objective,
        RuntimeVersion,
        SourceFormat,
    )
    from shared.hardware import HardwareProfile
    from shared.manifest import Scheme
    from shared.pipeline import PipelineSpec

_GIB = 1024**3
_CACHE_BYTES = 4 * _GIB
_ADDRESS_SPACE_BYTES = 16 * _GIB
_FILE_BYTES = 4 * _GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOrder:
    """What is to be converted here."""

    file: Path
    source_format: SourceFormat | None
    data: Path
    pipeline: PipelineSpec
    profiles: tuple[HardwareProfile, ...]
    schemes: tuple[Scheme, ...]
    budget: AccuracyBudget
    objective: Objective
    runtimes: tuple[RuntimeVersion, ...]
    image_input: bool
    batch: int | None
    threads: int
    timeout_s: float
    cache: Path


def default_cache() -> Path:
    """Return the folder that conversions on this machine remember in."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "litefleet" / "conversions"


def convert_here(
    order: LocalOrder, progress: Callable[[str, float], None], keep: Callable[[ConversionResult], None]
) -> ConversionResult:
    """Return the outcome; `keep` may copy what the worker left before its folder is removed.

    Ctrl-C and SIGTERM end the worker and all that it started at once, and the program with exit code 130.
    """
    check_installed()
    with tempfile.TemporaryDirectory(prefix="litefleet-convert-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        try:
            request = _request(order, scratch)
        except OSError as exc:
            fail(f"{exc.filename or scratch}: {exc.strerror}", code=EXIT_USAGE)
        try:
            result = asyncio.run(_run(request, order, scratch, progress))
        except (KeyboardInterrupt, asyncio.CancelledError):
            # What was made so far lies in the cache.
            fail("interrupted", remedy="the same command again goes on where it was", code=EXIT_INTERRUPTED)
        finally:
            prune(order.cache, max_bytes=_CACHE_BYTES, now_s=SystemClock().now().timestamp())
        keep(result)
    return result


def _request(order: LocalOrder, scratch: Path) -> ConversionRequest:
    content, source_format = source_of(order.file, order.source_format, scratch)
    try:
        read(order.data)
    except InvalidInputError as exc:
        fail(str(exc), code=EXIT_USAGE)
    source = scratch / scratch_name(source_format, content)
    if source != content:
        source.symlink_to(content)
    order.cache.mkdir(parents=True, exist_ok=True)
    (scratch / "out").mkdir()
    return ConversionRequest(
        conversion_id=ConversionId(mint_id(SystemClock())),
        source_path=str(source),
        source_name=order.file.name,
        source_format=source_format,
        scratch_path=str(scratch / "out"),
        dataset_path=str(order.data.absolute()),
        pipeline=order.pipeline,
        schemes=wanted_schemes(order.schemes),
        profiles=order.profiles,
        budget=order.budget,
        objective=order.objective,
        runtimes=order.runtimes,
        batch=order.batch,
        image_input=order.image_input,
        threads=order.threads,
        cache_path=str(order.cache.absolute()),
        environments_path=str(environments_folder(os.environ)),
        # The rest of the time is for the gate.
        max_search_s=order.timeout_s / 2,
    )


async def _run(
    request: ConversionRequest, order: LocalOrder, scratch: Path, progress: Callable[[str, float], None]
) -> ConversionResult:
    limits = ConvertLimits(
        wall_s=order.timeout_s,
        cpu_s=int(order.timeout_s * max(1, order.threads)) + 1,
        address_space_bytes=_ADDRESS_SPACE_BYTES,
        file_bytes=_FILE_BYTES,
        threads=order.threads,
    )

    async def show(line: ConversionProgress) -> None:
        progress(line.step, line.fraction)

    running = asyncio.current_task()
    if running is not None:
        # As Ctrl-C: whoever ends this program means the worker, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    command = (sys.executable, "-m", "converters")
    return await conversion_process.run(command, request, folder=scratch, limits=limits, progress=show)
