"""Cumulative measurements of the serving process, cut into windows that add up to exactly what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.metrics import unlabelled
from shared.sketches import Sketch
from shared.traffic import split_line
from shared.wire import Series, Telemetry

if TYPE_CHECKING:
    from datetime import datetime

    from agent.core.plan import SeriesStats, Stats
    from shared.ids import BootId, ModelName, ReleaseId


@dataclass(slots=True, kw_only=True)
class _Sums:
    """What one release did in the open window."""

    counts: dict[str, int] = field(default_factory=dict)
    sketches: dict[str, Sketch] = field(default_factory=dict)


class TelemetryWindow:
    """Takes cumulative `Stats` as often as they come; `close` gives what was added since the last close."""

    def __init__(self) -> None:
        self._serving: BootId | None = None
        self._seen: dict[tuple[ModelName, ReleaseId], SeriesStats] = {}
        self._sums: dict[tuple[ModelName, ReleaseId], _Sums] = {}
        self._opened_at: datetime | None = None

    def add(self, stats: Stats, at: datetime) -> None:
        """Count what `stats` adds to the ones before; a restarted serving process has begun at zero."""
        if stats.boot_id != self._serving:
            self._serving, self._seen = stats.boot_id, {}
        if self._opened_at is None:
            self._opened_at = at
        for series in stats.series:
            key = (series.model, series.release_id)
            # Upwards a release is one, whichever of its model's variants it ran as here.
            sums = self._sums.setdefault((split_line(series.model)[0], series.release_id), _Sums())
            self._count(sums, series, self._seen.get(key))
        self._seen = {(series.model, series.release_id): series for series in stats.series}

    def close(self, at: datetime) -> Telemetry | None:
        """Return the window and open the next; None when nothing was measured in it."""
        opened_at, self._opened_at = self._opened_at, at
        sums, self._sums = self._sums, {}
        series = tuple(
            Series(model=model, release_id=release, counts=kept.counts, sketches=kept.sketches)
            for (model, release), kept in sorted(sums.items())
            if any(kept.counts.values()) or any(sketch.count for sketch in kept.sketches.values())
        )
        if opened_at is None or not series:
            return None
        return Telemetry(window_start=opened_at, window_s=(at - opened_at).total_seconds(), series=series)

    def _count(self, sums: _Sums, series: SeriesStats, before: SeriesStats | None) -> None:
        for name, count in series.counts.items():
            added = max(count - (before.counts.get(name, 0) if before else 0), 0)
            # A release has a few counts and perhaps dozens of classes, of which a minute sees a few.
            if added or not unlabelled(name)[1]:
                sums.counts[name] = sums.counts.get(name, 0) + added
        for name, sketch in series.sketches.items():
            earlier_sketch = before.sketches.get(name) if before else None
            fresh = sketch.subtract(earlier_sketch) if earlier_sketch else sketch
            sums.sketches.setdefault(name, Sketch()).merge(fresh)
