"""What was measured since this process started. Cumulative, and kept for releases that have just left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.plan import PairStats, SeriesStats, Stats
from agent.serving.comparison import PairTally
from agent.serving.work import Work
from shared.metrics import METRICS, MetricKind
from shared.sketches import Sketch

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.serving.exchange import Reply
    from agent.serving.requests import Outcome
    from shared.ids import BootId, ModelName, ReleaseId


GONE_KEPT = 32
"""Releases remembered after they left: control reads at least every minute, and no minute sees so many come and go."""


class Series:
    """The metrics of one release, by the rows of `shared.metrics`."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {row.name: 0 for row in METRICS if row.kind is MetricKind.COUNT}
        self.sketches: dict[str, Sketch] = {row.name: Sketch() for row in METRICS if row.kind is MetricKind.SKETCH}
        self.work = Work()

    def answered(self, reply: Reply, *, ready_s: float) -> None:
        """Count a request that this release answered, ready to be sent at `ready_s` (monotonic)."""
        self.counts["requests"] += 1
        self.sketches["latency_ms"].add((ready_s - reply.ask.received_s) * 1000)
        self.work.answered(reply, ready_s=ready_s)
        self.ran(reply.outcome)

    def refused(self, *, took_s: float) -> None:
        """Count a request that the caller got wrong, or that found the queue full."""
        self.counts["requests"] += 1
        self.work.failed(took_s)

    def failed(self, *, took_s: float) -> None:
        """Count a request that this release failed."""
        self.counts["requests"] += 1
        self.counts["request_errors"] += 1
        self.work.failed(took_s)

    def ran(self, outcome: Outcome) -> None:
        """Count a run that nobody got an answer from, or the run within an answer."""
        self.sketches["invoke_ms"].add(outcome.invoke_ms)
        if outcome.confidence is not None:
            self.sketches["confidence"].add(outcome.confidence)


class Recorder:
    """All series and comparisons of this life of the process. Used on the event loop only."""

    def __init__(self, boot_id: BootId) -> None:
        self.boot_id = boot_id
        self._series: dict[tuple[ModelName, ReleaseId], Series] = {}
        self._pairs: dict[tuple[ModelName, ReleaseId, ReleaseId], PairTally] = {}

    def series(self, model: ModelName, release: ReleaseId) -> Series:
        """Return the series of a release, empty at first."""
        return self._series.setdefault((model, release), Series())

    def pairs(self, model: ModelName, *, candidate: ReleaseId, stable: ReleaseId) -> PairTally:
        """Return the comparison of two releases, empty at first; which of the two answers makes no difference."""
        return self._pairs.setdefault((model, candidate, stable), PairTally())

    def forget_gone(self, held: Collection[ReleaseId]) -> None:
        """Forget the releases that left longest ago, or a process that lives for years would keep every one it saw."""
        seen = dict.fromkeys(release for _, release in self._series)
        gone = [release for release in seen if release not in held]
        dropped = frozenset(gone[:-GONE_KEPT])
        if not dropped:
            return
        self._series = {key: kept for key, kept in self._series.items() if key[1] not in dropped}
        self._pairs = {key: kept for key, kept in self._pairs.items() if not dropped.intersection(key[1:])}

    def stats(self) -> Stats:
        """Return everything; the sketches are the live ones, to be encoded before the loop goes on."""
        return Stats(
            boot_id=self.boot_id,
            series=tuple(
                SeriesStats(model=model, release_id=release, counts=series.counts, sketches=series.sketches)
                for (model, release), series in self._series.items()
            ),
            pairs=tuple(
                PairStats(model=model, candidate=candidate, stable=stable, counts=tally.frozen())
                for (model, candidate, stable), tally in self._pairs.items()
            ),
        )
