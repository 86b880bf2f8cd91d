"""What happens in the measuring child: load as serving does, warm up, and hold two clocks beside every run."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.core.plan import MeasureRequest, MeasureResult
from agent.serving.models.loading import open_litert
from shared import manifest
from shared.errors import DigestMismatchError, LitefleetError, ModelLoadError
from shared.wire import Figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

_WARM_UPS = 3
_MOST_RUNS = 400
_LEAST_RUNS = 40
"""Two of them lie above a 95th percentile: fewer, and it is hardly more than the slowest run."""
_USUAL_SHARE, _LONGEST_SHARE = 1 / 6, 2 / 3
"""Of the deadline: what measuring takes as a rule (10 s of 60), and at most, for a model that needs longer."""
_RESET_PEAK = "5"
"""Source: proc(5), /proc/pid/clear_refs: sets the peak resident set to the current one."""


def measure_artifact(request: MeasureRequest) -> MeasureResult:
    """Load, warm up, and time; a model that cannot be run is a failure with its reason."""
    with contextlib.suppress(OSError):
        # Elsewhere the peak of starting up counts: then the figure is too small by what was freed again.
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    before_bytes = _memory_bytes("VmHWM")
    began = time.perf_counter()
    try:
        interpreter = open_litert(_read(request), request.threads)
        inputs = sample_inputs(interpreter)
        for _ in range(_WARM_UPS):
            interpreter.run(inputs)
            if time.perf_counter() - began > request.deadline_s * _USUAL_SHARE:
                break
        cpu_ms, wall_ms = _time(interpreter, inputs, began, request.deadline_s)
    except LitefleetError as exc:
        return MeasureResult(reason=f"{exc.reason}: {exc}")
    except MemoryError:
        # Nothing more can be relied on, but this much has always fitted so far.
        return MeasureResult(reason=f"memory_exceeded: {request.max_memory_bytes} bytes are not enough")
    figures = Figures(
        runs=len(cpu_ms),
        cpu_p50_ms=percentile(cpu_ms, 0.5),
        cpu_p95_ms=percentile(cpu_ms, 0.95),
        wall_p50_ms=percentile(wall_ms, 0.5),
        wall_p95_ms=percentile(wall_ms, 0.95),
        peak_memory_bytes=max(0, _memory_bytes("VmHWM") - before_bytes),
    )
    return MeasureResult(figures=figures)


def sample_inputs(interpreter: Interpreter) -> list[Tensor]:
    """Return inputs with a batch of one: seeded numbers in [0, 1), and zeros for integers, which may be indices."""
    chance = np.random.default_rng(0)
    inputs: list[Tensor] = []
    for spec in interpreter.inputs:
        shape = [max(size, 1) for size in spec.shape]
        kind = np.dtype(spec.dtype)
        # Zeros alone would flatter kernels that skip them.
        inputs.append(chance.random(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind))
    return inputs


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least `share` (0..1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _time(
    interpreter: Interpreter, inputs: list[Tensor], began: float, deadline_s: float
) -> tuple[list[float], list[float]]:
    """Return processor and elapsed time of each run in ms."""
    cpu_ms: list[float] = []
    wall_ms: list[float] = []
    while len(cpu_ms) < _MOST_RUNS:
        wall, cpu = time.perf_counter(), time.thread_time()
        interpreter.run(inputs)
        cpu_ms.append((time.thread_time() - cpu) * 1000)
        now = time.perf_counter()
        wall_ms.append((now - wall) * 1000)
        share = _USUAL_SHARE if len(cpu_ms) >= _LEAST_RUNS else _LONGEST_SHARE
        if now - began > deadline_s * share:
            break
    return cpu_ms, wall_ms


def _read(request: MeasureRequest) -> bytes:
    try:
        model = Path(request.path).read_bytes()
    except OSError as exc:
        raise ModelLoadError(f"{exc.filename}: {exc.strerror}") from exc
    actual = manifest.digest(model)
    if actual != request.sha256:
        raise DigestMismatchError(expected=request.sha256, actual=actual, path=request.path)
    return model


def _memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
