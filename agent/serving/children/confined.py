"""Children that may crash, hang or swell without harm: trials and measurements. Imports no numpy.

`ask` is control's end, `limit` the child's: request on stdin, result on stdout, as JSON. The serving process must never
fork (the runtime does not survive it), which is why control does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from shared.decoding import MALFORMED

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Sequence

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R", bound="Confinement")

_BASE_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Python, numpy and the runtime, before any model."""

_MEMORY_PER_MODEL_BYTE: Final = 4
"""The file, the runtime's packed copy of its weights (1.6 times the file), and room for activations."""

_KILLED_FIRST: Final = "1000"
_STDERR_BYTES: Final = 4096
_GRACE_S: Final = 5.0


class Confinement(Protocol):
    """What a request says of its own limits."""

    @property
    def max_memory_bytes(self) -> int:
        """Address space of the child."""
        ...

    @property
    def deadline_s(self) -> float:
        """When it has failed."""
        ...

    @property
    def threads(self) -> int:
        """How many may use the processor at once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no result, machine-readable word first."""

    reason: str


async def ask(module: str, request: bytes, kind: type[T], *, deadline_s: float, name: str) -> T | Failure:
    """Run `python -m module` and return its result. Whatever else becomes of the child is a failure with a name."""
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # One thread less for each core: numpy's pool reserves address space, and that is limited here.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
    except OSError as exc:
        return Failure(reason=f"{name}_not_started: {exc.strerror}")
    try:
        async with asyncio.timeout(deadline_s):
            answer, errors = await child.communicate(request)
    except TimeoutError:
        return Failure(reason=f"deadline: no result within {deadline_s:g} s")
    finally:
        await _end(child)
    return _judge(child.returncode, answer, errors, kind, name)


def memory_short(models: Sequence[Path], request: Confinement, *, name: str) -> str:
    """Return "" or why the child must not be started now: a model is gone, or memory is short."""
    try:
        model_bytes = sum(model.stat().st_size for model in models)
        available = _memory_available_bytes()
    except OSError as exc:
        return f"model_load_failed: {exc.filename}: {exc.strerror}"
    needed = min(request.max_memory_bytes, _BASE_MEMORY_BYTES + _MEMORY_PER_MODEL_BYTE * model_bytes)
    if available is not None and available < needed:
        return f"memory_short: {available} bytes available, the {name} needs {needed}"
    return ""


def _memory_available_bytes() -> int | None:
    """Return what the kernel says can be had without swapping; None where it does not say."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


async def _end(child: Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _judge(code: int | None, answer: bytes, errors: bytes, kind: type[T], name: str) -> T | Failure:
    if code == 0:
        try:
            return msgspec.json.decode(answer, type=kind)
        except MALFORMED:
            return Failure(reason=f"crashed: the {name} wrote no result")
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    lines = errors[-_STDERR_BYTES:].decode(errors="replace").strip().splitlines()
    return Failure(reason=f"crashed: {how}" + (f": {lines[-1][:200]}" if lines else ""))


def answer_one(kind: type[R], work: Callable[[R], msgspec.Struct]) -> int:
    """Be the child: read the request, limit this process, do the work, and write what came of it."""
    answer = os.dup(sys.stdout.fileno())
    # Native libraries write to stdout as they please; the result must stand there alone.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=kind)
    _limit(request)
    with os.fdopen(answer, "wb") as out:
        out.write(msgspec.json.encode(work(request)))
    return 0


def _limit(request: Confinement) -> None:
    """Bound memory and time, and be the first to be killed when the device runs short."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (request.max_memory_bytes, request.max_memory_bytes))
    cpu_s = math.ceil(request.deadline_s) * max(1, request.threads)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    # The alarm outlasts control's own deadline, and counts only when control has died.
    signal.alarm(math.ceil(request.deadline_s + _GRACE_S))
    with contextlib.suppress(OSError):
        # Not every container lets a process say so.
        Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST, encoding="ascii")
