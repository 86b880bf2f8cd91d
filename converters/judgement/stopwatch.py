"""How long an artifact takes for one item, and who says so."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from typing_extensions import override

from shared.runtime.interpreter import LiteRtInterpreter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_RUNS = 101
_LEAST_RUNS = 5
CONVERTER = "converter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one invocation."""

    median_ms: float
    p95_ms: float
    peak_memory_bytes: int
    """0 where it was not measured."""
    measured_on: str
    """`converter`, or the device."""


class Stopwatch(Protocol):
    """Somebody who can tell how long an artifact takes: this machine, or a device of the class that it is for."""

    def time(self, model: bytes, item: Tensor) -> Timing:
        """Time `model` on one of its inputs, without batch axis. Raises ModelLoadError, ModelFailedError."""
        ...

    @override
    def __str__(self) -> str:
        """Tell two stopwatches apart that would measure otherwise: what one measured is kept under its name."""
        ...


class OwnStopwatch:
    """This machine: right for comparing artifacts, and no promise for a device."""

    def __init__(self, *, threads: int, patience_s: float) -> None:
        """Measure with so many threads; a model that needs longer is measured fewer times: it varies less, too."""
        self._threads = threads
        self._patience_s = patience_s

    @override
    def __str__(self) -> str:
        """Tell two stopwatches apart that would measure otherwise."""
        return f"{CONVERTER}, {self._threads} threads, {self._patience_s:g} s"

    def time(self, model: bytes, item: Tensor) -> Timing:
        """Time one invocation after another."""
        interpreter = LiteRtInterpreter(model, threads=self._threads)
        batch = item[np.newaxis]
        # The first allocates and packs weights.
        interpreter.run([batch])
        durations: list[float] = []
        begin = time.perf_counter()
        while len(durations) < _RUNS:
            start = time.perf_counter()
            interpreter.run([batch])
            end = time.perf_counter()
            durations.append((end - start) * 1000)
            if end - begin > self._patience_s and len(durations) >= _LEAST_RUNS:
                break
        median, p95 = np.percentile(durations, [50, 95])
        return Timing(median_ms=float(median), p95_ms=float(p95), peak_memory_bytes=0, measured_on=CONVERTER)
