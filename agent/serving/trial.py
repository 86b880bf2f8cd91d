"""The trial of a release in a child process that may crash, hang or swell without harm. Imports no numpy.

`run_trial` is control's end; `python -m agent.serving.trial` is the child: request on stdin, result on stdout, as JSON.
The serving process must never fork (the runtime does not survive it), which is why control does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.core.plan import TrialRequest, TrialResult
from shared.decoding import MALFORMED

if TYPE_CHECKING:
    from asyncio.subprocess import Process

_BASE_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Python, numpy and the runtime, before any model."""

_MEMORY_PER_MODEL_BYTE: Final = 4
"""The file, the runtime's packed copy of its weights (1.6 times the file), and room for activations."""

_KILLED_FIRST: Final = "1000"
_STDERR_BYTES: Final = 4096
_GRACE_S: Final = 5.0


async def run_trial(request: TrialRequest) -> TrialResult:
    """Try a release. Whatever becomes of the child is a result; a child that gives none has failed."""
    short = _memory_short(request)
    if short:
        return TrialResult(passed=False, reason=short)
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent.serving.trial",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # One thread less for each core: numpy's pool reserves address space, and that is limited here.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
    except OSError as exc:
        return TrialResult(passed=False, reason=f"trial_not_started: {exc.strerror}")
    try:
        async with asyncio.timeout(request.deadline_s):
            answer, errors = await child.communicate(msgspec.json.encode(request))
    except TimeoutError:
        return TrialResult(passed=False, reason=f"deadline: no result within {request.deadline_s:g} s")
    finally:
        await _end(child)
    return _judge(child.returncode, answer, errors)


def _memory_short(request: TrialRequest) -> str:
    try:
        model_bytes = (Path(request.folder) / "model.tflite").stat().st_size
        available = _memory_available_bytes()
    except OSError as exc:
        return f"model_load_failed: {exc.filename}: {exc.strerror}"
    needed = min(request.max_memory_bytes, _BASE_MEMORY_BYTES + _MEMORY_PER_MODEL_BYTE * model_bytes)
    if available is not None and available < needed:
        return f"memory_short: {available} bytes available, the trial needs {needed}"
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


def _judge(code: int | None, answer: bytes, errors: bytes) -> TrialResult:
    if code == 0:
        try:
            return msgspec.json.decode(answer, type=TrialResult)
        except MALFORMED:
            return TrialResult(passed=False, reason="crashed: the trial wrote no result")
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    lines = errors[-_STDERR_BYTES:].decode(errors="replace").strip().splitlines()
    return TrialResult(passed=False, reason=f"crashed: {how}" + (f": {lines[-1][:200]}" if lines else ""))


def main() -> int:
    """Be the child: limit itself, then load, check and measure."""
    answer = os.dup(sys.stdout.fileno())
    # Native libraries write to stdout as they please; the result must stand there alone.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=TrialRequest)
    _limit(request)
    # Only now, under the limits, and never in the process that merely calls `run_trial`.
    from agent.serving.trial_child import try_release  # noqa: PLC0415 - see the line above

    with os.fdopen(answer, "wb") as out:
        out.write(msgspec.json.encode(try_release(request)))
    return 0


def _limit(request: TrialRequest) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
