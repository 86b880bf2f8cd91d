"""What one protocol brought to one release: requests are noted as rows of numbers, and counted many at a time.

A request costs one `extend` of an array; numpy then sorts hundreds of rows into buckets for what counting two of them
one by one would take. Nothing is lost in between: whoever reads has the rest counted first.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

from shared.metrics import BY_NAME, CALLS, MetricKind
from shared.sketches import LARGEST, LOG_GAMMA, SMALLEST, Sketch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from agent.serving.exchange import Reply

    Numbers = NDArray[np.float64]

COLUMNS: Final = 10
ROWS_KEPT: Final = 256
"""Rows until they are counted: 20 kB, and a pause of a quarter of a millisecond after one reply in so many."""

NO_VALUE: Final = math.nan
_NS, _NS_IN_MS, _MS = 1e9, 1e6, 1e3
_HISTOGRAMS: Final = tuple(row for row in CALLS if row.kind is MetricKind.HISTOGRAM)


class Histogram:
    """Integers by bucket, as one row of `shared.metrics` has them, and the sum of all values."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, name: str) -> None:
        self.edges: Numbers = np.array(BY_NAME[name].buckets)
        self.counts: NDArray[np.int64] = np.zeros(len(self.edges) + 1, np.int64)
        """The last is for values above every bucket."""
        self.total = 0.0

    def add(self, values: Numbers) -> None:
        """Count all values."""
        self.counts += np.bincount(self.edges.searchsorted(values), minlength=len(self.counts))
        self.total += float(values.sum())


class Tally:
    """Counts of one release and protocol. Used on the event loop only."""

    def __init__(self) -> None:
        self.rows: array[float] = array("d")
        self.success_count = self.items = self.runs = 0
        self.last_s: float | None = None
        """When (monotonic) the last answered request was received."""
        self.success_ns = self.queue_ns = self.pre_ns = self.invoke_ns = self.post_ns = 0
        self.fail_count = self.fail_ns = 0
        self.errors: dict[str, int] = {}
        """By kind: the server's or the model's own."""
        self.refusals: dict[str, int] = {}
        """By kind: the caller's."""
        self.histograms = {row.name: Histogram(row.name) for row in _HISTOGRAMS}

    @property
    def requests(self) -> int:
        """How many came, answered or not."""
        return self.success_count + len(self.rows) // COLUMNS + self.fail_count

    def answered(self, reply: Reply, *, ready_s: float) -> bool:
        """Note an answer that was ready to be sent at `ready_s` (monotonic); returns whether it is time to `fold`."""
        ask, outcome = reply.ask, reply.outcome
        confidence, moments, rows = outcome.confidence, outcome.moments, self.rows
        rows.extend(
            (
                ask.received_s,
                reply.asked_s,
                moments.began_s,
                moments.invoked_s,
                ready_s,
                outcome.invoke_ms,
                NO_VALUE if confidence is None else confidence,
                ask.request.rows,
                moments.runs,
                outcome.batch,
            )
        )
        return len(rows) >= ROWS_KEPT * COLUMNS

    def failed(self, kind: str, *, took_s: float, is_own: bool) -> None:
        """Count a request that got no answer."""
        self.fail_count += 1
        self.fail_ns += int(took_s * _NS)
        kinds = self.errors if is_own else self.refusals
        kinds[kind] = kinds.get(kind, 0) + 1

    def fold(self, sketches: dict[str, Sketch]) -> None:
        """Count the rows, into `sketches` too."""
        if not self.rows:
            return
        table = np.frombuffer(self.rows).reshape(-1, COLUMNS).T
        self.rows = array("d")
        received, asked, began, invoked, ready, invoke_ms, confidence, items, runs, batch = table
        whole, queue = ready - received, np.maximum(began - asked, 0)
        # Parsing before the wait, the pipeline's steps behind it.
        pre = np.maximum(asked - received, 0) + np.maximum(invoked - began, 0)
        # Whatever is left, so that the four parts make up the whole.
        post = np.maximum(whole - queue - pre - invoke_ms / _MS, 0)
        sure = confidence[~np.isnan(confidence)]
        values: dict[str, Numbers] = {
            "latency_ms": whole * _MS,
            "queue_ms": queue * _MS,
            "pre_ms": pre * _MS,
            "invoke_ms": invoke_ms,
            "post_ms": post * _MS,
            "batch_items": np.maximum(items / np.maximum(runs, 1), batch),
            "confidence": sure,
        }
        for name, histogram in self.histograms.items():
            histogram.add(values[name])
        for name, sketch in sketches.items():
            count_all(sketch, values[name])
        self.success_count += len(whole)
        self.items += int(items.sum())
        self.runs += int(runs.sum())
        self.last_s = float(received[-1])
        self._sum_up(values)

    def _sum_up(self, values: Mapping[str, Numbers]) -> None:
        self.success_ns += _ns(values["latency_ms"])
        self.queue_ns += _ns(values["queue_ms"])
        self.pre_ns += _ns(values["pre_ms"])
        self.invoke_ns += _ns(values["invoke_ms"])
        self.post_ns += _ns(values["post_ms"])


def count_all(sketch: Sketch, values: Numbers) -> None:
    """Count every value, as `Sketch.add` would one by one."""
    kept = np.minimum(values[values > SMALLEST], LARGEST)
    indexes, counts = np.unique(np.ceil(np.log(kept) / LOG_GAMMA).astype(np.int64), return_counts=True)
    sketch.merge(
        Sketch(
            bins=dict(zip(indexes.tolist(), counts.tolist(), strict=True)),
            zeros=int((values <= SMALLEST).sum()),
            total=float(kept.sum()),
        )
    )


def _ns(milliseconds: Numbers) -> int:
    return int(milliseconds.sum() * _NS_IN_MS)
