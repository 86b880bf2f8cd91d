"""What a model costs on this device, measured when it is loaded, and how it is therefore run.

About 100 ms in all, in the thread that loads: a slow model is run once in each setting, and what could not pay is not
measured at all. Measured beside requests that are being served, so that medians are told, and choices leave a margin.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from agent.serving.models import allocator
from shared.errors import LitefleetError
from shared.probe import BatchTiming, ExecutionMode, ModelProbe, ThreadTiming

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from shared.runtime.interpreter import Interpreter

    OpenThreads = Callable[[int], Interpreter]
    Memory = Callable[[], int]
    Stopwatch = Callable[[], float]
    Tensor = NDArray[Any]

INLINE_MS: Final = 0.15
"""A run up to this long may block the event loop: handing it to a thread and back costs about as much."""

BATCHES: Final = (4, 16)
"""Sizes that requests are joined to, besides 1. Each has an interpreter of its own: to change the size of one costs it
0.1 to 1.3 ms."""

BATCH_GAIN: Final = 1.3
"""How much faster a row must be in a batch of 4 than alone. Dense layers are three times as fast, convolutions not."""

_NEXT_GAIN: Final = 1.1
"""The same of each larger size, against the one before."""

EXTRA_BYTES: Final = 16 * 1024 * 1024
"""For all interpreters of a model beyond its first. Each packs its own copy of the weights, and the whole process is
to stay under 64 MiB with two models."""

MAX_WORKERS: Final = 4

_FREE: Final = -1
_SHARE_S, _RUNS = 0.015, 25
# Joining requests and splitting the answer takes this long for each: less is not to be gained from a batch, nor from
# threads, which a run wakes.
_LEAST_GAIN_MS: Final = 0.02
# Nothing of this size is one dense layer after another, and four times as much would take all the time there is.
_NEVER_BATCHED_MS: Final = 25.0
# Fewer interpreters for (nearly) the same rate are quicker at one request, and leave memory to others.
_AS_GOOD: Final = 0.9
_SMAPS: Final = Path("/proc/self/smaps_rollup")
# A row in a batch is computed in another order: by so much of the largest number it may differ, and by one step of a
# quantised one.
_TOLERANCE: Final = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What was measured, and the interpreters that were opened for it and are of use."""

    probe: ModelProbe
    first: Interpreter
    """With as many threads as were chosen."""
    least_ms: float
    """The fastest run seen: who has less time left cannot be answered."""
    spare: Interpreter | None = None
    """A second one like the first."""
    buckets: Mapping[int, Interpreter] = field(default_factory=dict)
    """One for each size of batch."""


def probe_model(
    open_threads: OpenThreads,
    *,
    threads: int,
    cores: int,
    example: list[Tensor] | None,
    may_join: bool,
    size_bytes: int = 0,
    memory: Memory | None = None,
    stopwatch: Stopwatch = time.perf_counter,
) -> Probed:
    """Open a model, measure it and choose.

    `threads` above 1 are what somebody has measured before: they are kept. With `may_join`, requests are independent of
    each other and may share an invocation. Of a file of many `size_bytes` there is never more than one interpreter at a
    time. `memory` tells what this process takes: `own_bytes`. Raises what opening and running the model raises.
    """
    meters = _Meters(memory or own_bytes, stopwatch)
    probing = _Probing(open_threads, threads=threads, cores=cores, example=example, meters=meters)
    is_large = size_bytes > EXTRA_BYTES
    return probing.run(may_join=may_join and not is_large, is_large=is_large)


def zeros(interpreter: Interpreter) -> list[Tensor]:
    """Return inputs that every model takes; zero is in range even of an index."""
    return [np.zeros([max(size, 1) for size in spec.shape], spec.dtype) for spec in interpreter.inputs]


def own_bytes() -> int:
    """Return the anonymous memory of this process; 0 where the system does not tell.

    Pages of files are left out: whether they are this process's alone changes with who else maps the same library. What
    the allocator has free is given back first; it would hide what is allocated next.
    """
    allocator.give_back()
    try:
        lines = _SMAPS.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Several runs of the same."""

    p50_ms: float
    least_ms: float


class _Meters(NamedTuple):
    own_bytes: Memory
    stopwatch: Stopwatch


class _Probing:
    """The course of one probe."""

    def __init__(
        self, open_threads: OpenThreads, *, threads: int, cores: int, example: list[Tensor] | None, meters: _Meters
    ) -> None:
        self._open_threads, self._threads, self._cores = open_threads, threads, max(1, cores)
        first = open_threads(threads)
        self._own_bytes, self._stopwatch = meters
        self._inputs = example or zeros(first)
        self._opened = {threads: first}
        self._timed = {threads: time_runs(first, self._inputs, self._stopwatch)}
        self._extra_bytes = 0
        self._is_measured = False

    def run(self, *, may_join: bool, is_large: bool) -> Probed:
        """Measure, and choose."""
        alone = self._timed[self._threads]
        if self._threads == 1 and alone.p50_ms > _LEAST_GAIN_MS:
            for count in sorted({2, self._cores} & set(range(2, self._cores + 1))):
                if is_large:
                    # A device that has room for one copy of it may well have none for two.
                    self._opened.clear()
                self._opened[count] = self._extra(count)
        is_inline = alone.p50_ms <= INLINE_MS
        workers, threads = (1, self._threads) if is_inline else self._choose()
        # What answers on the loop needs one worker beside it, for images, large batches and shadow runs.
        spare = self._extra(threads) if is_inline or workers > 1 else None
        self._keep_only(threads)
        buckets, by_batch = self._try_batches(threads) if may_join else ({}, ())
        if not is_inline:
            # Rather batches than one worker more: they save work, where a worker only shares it out.
            workers = max(1, min(workers, 1 + (self._allowed - len(buckets)) // (1 + len(buckets))))
        return Probed(
            first=self._opened[threads],
            spare=spare if is_inline or workers > 1 else None,
            buckets=buckets,
            least_ms=self._timed[threads].least_ms,
            probe=ModelProbe(
                mode=ExecutionMode.INLINE if is_inline else ExecutionMode.WORKERS,
                workers=workers,
                threads=threads,
                batches=tuple(buckets),
                by_threads=tuple(ThreadTiming(threads=n, p50_ms=each.p50_ms) for n, each in self._timed.items()),
                by_batch=by_batch,
                interpreter_bytes=self._extra_bytes,
            ),
        )

    def _keep_only(self, threads: int) -> None:
        kept = self._opened.get(threads)
        self._opened.clear()
        self._opened[threads] = kept or self._open_threads(threads)

    @property
    def _allowed(self) -> int:
        """How many interpreters there may be besides the first."""
        return EXTRA_BYTES // max(self._extra_bytes, 1)

    def _choose(self) -> tuple[int, int]:
        """Return workers and threads of each: the fewest workers of all settings that answer most in a second."""
        rates: dict[tuple[int, int], float] = {}
        for threads, timing in self._timed.items():
            workers = max(1, min(self._cores // threads, MAX_WORKERS, 1 + self._allowed))
            rates[workers, threads] = workers / timing.p50_ms
        best = max(rates.values())
        return min(setting for setting, rate in rates.items() if rate >= _AS_GOOD * best)

    def _extra(self, threads: int) -> Interpreter:
        """Open one more interpreter; time it, if none had so many threads, and see what the first of them takes.

        That is the growth of the process's own pages while it is opened and run, so that what else it did at that
        moment is in it. What it shares with the first interpreter, as the file's bytes, is not.
        """
        before = 0 if self._is_measured else self._own_bytes()
        extra = self._open_threads(threads)
        if threads not in self._timed:
            self._timed[threads] = time_runs(extra, self._inputs, self._stopwatch)
        elif not self._is_measured:
            extra.run(self._inputs)
        if not self._is_measured:
            self._extra_bytes, self._is_measured = max(0, self._own_bytes() - before), True
        return extra

    def _try_batches(self, threads: int) -> tuple[dict[int, Interpreter], tuple[BatchTiming, ...]]:
        """Return an interpreter for each size that pays, and what was measured of any."""
        alone, first = self._timed[threads], self._opened[threads]
        timings = [BatchTiming(batch=1, p50_ms=alone.p50_ms)]
        buckets: dict[int, Interpreter] = {}
        before_ms = alone.least_ms
        if not _is_open(first, self._inputs) or not _LEAST_GAIN_MS < alone.p50_ms < _NEVER_BATCHED_MS:
            return {}, tuple(timings)
        rows = [_vary(self._inputs, number) for number in range(max(BATCHES))]
        gains = dict.fromkeys(BATCHES, _NEXT_GAIN) | {BATCHES[0]: BATCH_GAIN}
        for size in BATCHES:
            batch = [np.concatenate(each) for each in zip(*rows[:size], strict=True)]
            try:
                extra = self._extra(threads)
                if len(buckets) >= self._allowed or not _are_independent(first, extra, rows[:size], batch):
                    break
                timing = time_runs(extra, batch, self._stopwatch)
            except LitefleetError:
                # It takes no batch, whatever its signature says.
                break
            timings.append(BatchTiming(batch=size, p50_ms=timing.p50_ms))
            # By the least: a busy neighbour lengthens medians, and one that came or went between two sizes decided.
            row_ms = timing.least_ms / size
            if row_ms * gains[size] > before_ms or alone.least_ms - row_ms < _LEAST_GAIN_MS:
                break
            before_ms = row_ms
            buckets[size] = extra
        return buckets, tuple(timings)


def time_runs(interpreter: Interpreter, inputs: Sequence[Tensor], stopwatch: Stopwatch = time.perf_counter) -> Timing:
    """Time runs for a while. The first one warms up, and counts only where there was no time for another."""
    took: list[float] = []
    end = stopwatch() + _SHARE_S
    while not took or (len(took) <= _RUNS and stopwatch() < end):
        started = stopwatch()
        interpreter.run(inputs)
        took.append(stopwatch() - started)
    counted = took[1:] or took
    return Timing(p50_ms=statistics.median(counted) * 1000, least_ms=min(counted) * 1000)


def _is_open(interpreter: Interpreter, inputs: Sequence[Tensor]) -> bool:
    """Tell whether every tensor has a free first axis, and the example is one row."""
    specs = (*interpreter.inputs, *interpreter.outputs)
    return all(spec.shape[:1] == (_FREE,) for spec in specs) and all(len(each) == 1 for each in inputs)


def _vary(inputs: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return a row unlike its neighbours, of numbers that are in range of nearly anything."""
    if number % 2:
        return [np.zeros_like(each) for each in inputs]
    return [
        each if each.any() else (np.arange(each.size) % 2).reshape(each.shape).astype(each.dtype) for each in inputs
    ]


def _are_independent(
    alone: Interpreter, joined: Interpreter, rows: Sequence[list[Tensor]], batch: Sequence[Tensor]
) -> bool:
    """Tell whether each row is answered in a batch as it is alone: a graph may well normalise over its batch."""
    together = joined.run(batch)
    # Only two kinds of rows were made.
    for number, row in enumerate(rows[:2]):
        for lonely, whole in zip(alone.run(row), together, strict=True):
            if len(whole) != len(rows) or not _agree(lonely, whole[number::2]):
                return False
    return True


def _agree(lonely: Tensor, rows: Tensor) -> bool:
    if lonely.dtype.kind not in "biuf":
        return False
    one, many = lonely.astype(np.float64), rows.astype(np.float64)
    step = 1.0 if lonely.dtype.kind in "iu" else 0.0
    return bool(np.allclose(many, one, rtol=0, atol=max(step, _TOLERANCE * float(np.abs(one).max(initial=0)))))
