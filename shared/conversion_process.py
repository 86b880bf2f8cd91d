"""`python -m converters` as a child of this process, within limits: JSON in, JSON lines out, its chatter in a file.

A model may be hostile, huge, or crash its framework. Whatever the child does, the answer is a `ConversionResult`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

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
_TAIL_BYTES = 16 * 1024
_OUT_OF_MEMORY_WORDS = ("MemoryError", "bad_alloc", "Cannot allocate memory", "out of memory")
_LIMITS = Path(__file__).with_name("limits.py")
_PROC = Path("/proc")


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
            process = await _start(command, stderr.fileno(), folder, limits)
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
        await _end(process)
    # A program that crashes after its result may have crashed while writing the artifacts.
    if result is not None and code == 0:
        return result
    return _autopsy(code, _tail(chatter))


def crashed(message: str) -> ConversionResult:
    """Return the outcome of a program that is not to be believed."""
    return ConversionResult(failure=FailureKind.CRASHED, message=message)


async def _start(command: tuple[str, ...], stderr: int, folder: Path, limits: ConvertLimits) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        # Safe path: beside the wrapper lie packages with the names of standard ones.
        "-P",
        str(_LIMITS),
        f"--address-space-bytes={limits.address_space_bytes}",
        f"--cpu-s={limits.cpu_s}",
        f"--file-bytes={limits.file_bytes}",
        f"--parent={os.getpid()}",
        "--",
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        limit=_MAX_LINE_BYTES,
        # A group of its own, so that whatever it starts ends with it.
        start_new_session=True,
        env=_environment(folder),
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


async def _end(process: Process) -> None:
    """Kill all that descends from the program, sessions of their own or not, and reap the program."""
    for pid in _descendants(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await process.wait()


def _descendants(ancestor: int) -> list[int]:
    """Return the processes below one, while it lives; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name of a program may hold brackets and blanks; what follows its last bracket is state and parent.
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


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


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace")


def _environment(folder: Path) -> dict[str, str]:
    """Return this process's environment without our own settings, which may hold secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LITEFLEET_")}
    # Safe path: whoever converts may stand in a folder of downloaded models, whose files are no modules of ours.
    return {**kept, "TMPDIR": str(folder / "tmp"), "HOME": str(folder / "tmp"), "PYTHONSAFEPATH": "1"}
