"""`python -m converters` as a child of this process, within limits: JSON in, JSON lines out, its chatter in a file.

A model may be hostile, huge, or crash its framework. Whatever the child does, the answer is a `ConversionResult`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shared import limited
from shared.conversion import (
    ConversionLine,
    ConversionProgress,
    ConversionRequest,
    ConversionResult,
    FailureKind,
)

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable, Mapping

    Progress = Callable[[ConversionProgress], Awaitable[None]]

# Every artifact comes with golden inputs and outputs as large as a manifest may be.
_MAX_LINE_BYTES = 64 * 1024 * 1024
_MAX_LINES = 100_000
_OUT_OF_MEMORY_WORDS = ("MemoryError", "bad_alloc", "Cannot allocate memory", "out of memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLimits:
    """What one conversion may use."""

    wall_s: float
    cpu_s: int
    address_space_bytes: int
    file_bytes: int
    threads: int


def environments_folder(environment: Mapping[str, str]) -> Path:
    """Return where front ends are installed when nobody names a folder; the conversion program has no home to ask."""
    return Path(environment.get("LITEFLEET_WORKERS_DIR") or "~/.cache/litefleet/workers").expanduser().absolute()


async def run(
    command: tuple[str, ...], request: ConversionRequest, *, folder: Path, limits: ConvertLimits, progress: Progress
) -> ConversionResult:
    """Have the program carry out `request`; `folder` takes its chatter and, in `tmp`, what it leaves lying about.

    However this ends, by its result, a limit or a cancellation, nothing that the program started runs afterwards.
    """
    chatter = folder / "stderr.log"
    try:
        (folder / "tmp").mkdir(exist_ok=True)
        with chatter.open("wb") as stderr:
            process = await limited.start(
                command, _process_limits(limits), folder=folder, stderr=stderr.fileno(), line_bytes=_MAX_LINE_BYTES
            )
    except OSError as exc:
        return crashed(f"the conversion program did not start: {exc}")
    try:
        async with asyncio.timeout(limits.wall_s):
            result = await _converse(process, request, progress)
            code = await process.wait()
    except TimeoutError:
        return ConversionResult(failure=FailureKind.TIMED_OUT, message=f"not finished after {limits.wall_s:g} s")
    except (msgspec.DecodeError, ValueError) as exc:
        return crashed(f"the conversion program does not speak its protocol: {exc}")
    finally:
        await limited.end(process)
    # A program that crashes after its result may have crashed while writing the artifacts.
    if result is not None and code == 0:
        return result
    return _autopsy(code, limited.tail(chatter))


def crashed(message: str) -> ConversionResult:
    """Return the outcome of a program that is not to be believed."""
    return ConversionResult(failure=FailureKind.CRASHED, message=message)


def _process_limits(limits: ConvertLimits) -> limited.ProcessLimits:
    return limited.ProcessLimits(
        cpu_s=limits.cpu_s, address_space_bytes=limits.address_space_bytes, file_bytes=limits.file_bytes
    )


async def _converse(process: Process, request: ConversionRequest, progress: Progress) -> ConversionResult | None:
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
        return crashed("it wrote a file that is larger than allowed")
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return crashed(f"ended by {ended} without a result" + (f": {last}" if last else ""))
