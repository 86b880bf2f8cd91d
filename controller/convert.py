"""Runs the converters as a program of its own, within limits: a model may be hostile, huge, or crash its framework.

One child in a session of its own, JSON in, JSON lines out, its chatter in a file. Whatever it does, the answer is a
`ConversionResult`; only a full disk is an error, for that is not the model's fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from controller import limited
from controller.blobs import FULL
from controller.limited import ProcessLimits
from shared.conversion import (
    ConversionLine,
    ConversionProgress,
    ConversionRequest,
    ConversionResult,
    ConvertedArtifact,
    FailureKind,
    SourceFormat,
)
from shared.errors import NotFoundError, StorageFullError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable

    from controller.blobs import Blobs
    from controller.registry.core.types import Conversion
    from shared.ids import Sha256

log = structlog.get_logger(__name__)

# Four artifacts, each with golden inputs and outputs as large as a manifest may be.
_MAX_LINE_BYTES = 64 * 1024 * 1024
_MAX_LINES = 10_000
_SUFFIX = {SourceFormat.KERAS: ".keras"}
_OUT_OF_MEMORY_WORDS = ("MemoryError", "bad_alloc", "Cannot allocate memory", "out of memory")
_MIN_FREE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLimits:
    """What one conversion may use."""

    wall_s: float
    cpu_s: int
    address_space_bytes: int
    file_bytes: int
    threads: int


class Converter:
    """Runs conversions; `scratch` holds one folder for each that runs, and nothing after."""

    def __init__(self, *, command: tuple[str, ...], blobs: Blobs, scratch: Path, limits: ConvertLimits) -> None:
        self._command = command
        self._blobs = blobs
        self._scratch = scratch
        self._limits = limits
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)

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
        if shutil.disk_usage(self._scratch).free < _MIN_FREE_BYTES:
            raise StorageFullError("the disk has no room for a conversion", retry_after_s=30.0)
        folder = self._scratch / conversion.conversion_id
        shutil.rmtree(folder, ignore_errors=True)
        try:
            for name in ("out", "tmp"):
                (folder / name).mkdir(parents=True)
            request = self._request(conversion, source, folder)
            result = await self._run(request, folder, progress)
            return await self._keep(result, folder / "out")
        except NotFoundError as exc:
            return ConversionResult(failure=FailureKind.BAD_INPUT, message=f"a file of it is gone: {exc}")
        except OSError as exc:
            if exc.errno in FULL:
                raise StorageFullError("the disk has no room for a conversion", retry_after_s=30.0) from exc
            return _crashed(f"the scratch folder cannot be used: {exc}")
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _request(self, conversion: Conversion, source: Sha256, folder: Path) -> ConversionRequest:
        order = conversion.order
        # Frameworks look at a file's suffix; a blob has none.
        named = {
            "source" + _SUFFIX[SourceFormat.KERAS]: source,
            "calibration.npz": order.calibration_sha256,
            "evaluation.npz": order.evaluation_sha256,
        }
        for name, sha256 in named.items():
            (folder / name).symlink_to(self._blobs.path(sha256).resolve())
        source_name, calibration, evaluation = named
        return ConversionRequest(
            conversion_id=conversion.conversion_id,
            source_path=str(folder / source_name),
            source_format=SourceFormat.KERAS,
            scratch_path=str(folder / "out"),
            calibration_path=str(folder / calibration),
            evaluation_path=str(folder / evaluation),
            pipeline=order.pipeline,
            schemes=order.schemes,
            profiles=order.profiles,
            max_accuracy_drop=order.max_accuracy_drop,
            threads=self._limits.threads,
        )

    async def _run(
        self,
        request: ConversionRequest,
        folder: Path,
        progress: Callable[[ConversionProgress], Awaitable[None]],
    ) -> ConversionResult:
        chatter = folder / "stderr.log"
        try:
            with chatter.open("wb") as stderr:
                process = await self._start(stderr.fileno(), folder)
        except OSError as exc:
            return _crashed(f"the conversion program did not start: {exc}")
        try:
            async with asyncio.timeout(self._limits.wall_s):
                result = await _converse(process, request, progress)
                code = await process.wait()
        except TimeoutError:
            return ConversionResult(
                failure=FailureKind.TIMED_OUT, message=f"not finished after {self._limits.wall_s:g} s"
            )
        except (msgspec.DecodeError, ValueError) as exc:
            return _crashed(f"the conversion program does not speak its protocol: {exc}")
        finally:
            await limited.end(process)
        # A program that crashes after its result may have crashed while writing the artifacts.
        if result is not None and code == 0:
            return result
        return _autopsy(code, limited.tail(chatter))

    async def _start(self, stderr: int, folder: Path) -> Process:
        limits = ProcessLimits(
            cpu_s=self._limits.cpu_s,
            address_space_bytes=self._limits.address_space_bytes,
            file_bytes=self._limits.file_bytes,
        )
        return await limited.start(self._command, limits, folder=folder, stderr=stderr, line_bytes=_MAX_LINE_BYTES)

    async def _keep(self, result: ConversionResult, out: Path) -> ConversionResult:
        """Take the passing artifacts among the blobs, and believe no path and no digest on the way."""
        for artifact in result.artifacts:
            if artifact.refused:
                continue
            problem = await self._keep_one(artifact, out)
            if problem:
                return _crashed(f"artifact {artifact.scheme}: {problem}")
        return result

    async def _keep_one(self, artifact: ConvertedArtifact, out: Path) -> str:
        problem = _not_as_told(artifact, out)
        if problem:
            return problem
        # Hashed while it is copied: the program cannot exchange the file between the check and the copy.
        sha256 = await self._blobs.put_file(Path(artifact.path))
        return "" if sha256 == artifact.sha256 else f"its sha256 is {sha256}, not {artifact.sha256}"


def _not_as_told(artifact: ConvertedArtifact, out: Path) -> str:
    path = Path(artifact.path)
    if path.is_symlink() or not path.is_file() or out.resolve() not in path.resolve().parents:
        return "its path is no file in the scratch folder"
    size_bytes = path.stat().st_size
    return "" if size_bytes == artifact.length_bytes else f"it has {size_bytes} bytes, not {artifact.length_bytes}"


async def _converse(
    process: Process, request: ConversionRequest, progress: Callable[[ConversionProgress], Awaitable[None]]
) -> ConversionResult | None:
    """Send the request and read lines until the program closes its side; the result must be the last."""
    if process.stdin is None or process.stdout is None:
        return None
    with contextlib.suppress(ConnectionError):
        # A program that ends before it has read everything is judged by its exit code.
        process.stdin.write(msgspec.json.encode(request))
        await process.stdin.drain()
    process.stdin.close()
    result: ConversionResult | None = None
    lines = 0
    while line := await process.stdout.readline():
        lines += 1
        if result is not None or lines > _MAX_LINES:
            raise ValueError("more lines than expected")
        said = msgspec.json.decode(line, type=ConversionLine)
        if isinstance(said, ConversionResult):
            result = said
        else:
            await progress(said)
    return result


def _autopsy(code: int, tail: str) -> ConversionResult:
    """Say why a program ended without a result: negative codes are signals."""
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "")[:500]
    if code == -signal.SIGXCPU:
        return ConversionResult(failure=FailureKind.TIMED_OUT, message="its CPU time is used up")
    if any(word in tail for word in _OUT_OF_MEMORY_WORDS):
        return ConversionResult(failure=FailureKind.OUT_OF_MEMORY, message=last or "its memory is used up")
    if code == -signal.SIGKILL:
        # Nobody else here kills a conversion that is in time: the kernel does, when memory is short.
        return ConversionResult(failure=FailureKind.OUT_OF_MEMORY, message="killed, most likely for want of memory")
    if code == -signal.SIGXFSZ:
        return _crashed("it wrote a file that is larger than allowed")
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return _crashed(f"ended by {ended} without a result" + (f": {last}" if last else ""))


def _crashed(message: str) -> ConversionResult:
    return ConversionResult(failure=FailureKind.CRASHED, message=message)
