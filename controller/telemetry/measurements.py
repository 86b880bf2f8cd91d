"""Measurements as values: what of a device's series may be counted, and how two add up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.metrics import MetricKind, labelled, travels, unlabelled
from shared.sketches import Sketch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from shared.ids import BootId, DeviceId, ModelName, ReleaseId
    from shared.wire import Series

# Ten million requests a second for an hour: no window of a real device counts as much, and sums stay exact in JSON.
_MAX_COUNT = 10**11
_MAX_NAME = 63  # as wide as the columns
# 65 classes, and twice as many figures of drift as inputs are watched one by one; with the names of people's classes.
_MAX_COUNTS, _MAX_COUNT_NAME = 256, 256
# 1 % accuracy from a nanosecond to a day takes fewer.
_MAX_BINS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SumKey:
    """What running sums are kept for."""

    device_id: DeviceId
    model: ModelName
    release_id: ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowKey:
    """What is counted once."""

    of: SumKey
    boot_id: BootId
    window_start: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Counts and sketches by metric; names that this version does not know are left out."""

    counts: dict[str, int]
    sketches: dict[str, Sketch]

    def plus(self, other: Measured) -> Measured:
        """Return both together; neither is changed."""
        counts = dict(self.counts)
        for name, count in other.counts.items():
            counts[name] = counts.get(name, 0) + count
        sketches = {name: sketch.copy() for name, sketch in self.sketches.items()}
        for name, sketch in other.sketches.items():
            sketches.setdefault(name, Sketch()).merge(sketch)
        return Measured(counts=counts, sketches=sketches)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureLooks:
    """How often a device looked at one figure of a release, and how often it found drift."""

    model: ModelName
    release_id: ReleaseId
    figure: str
    looks: int
    alarms: int


def looks_in(totals: Mapping[SumKey, Mapping[str, int]]) -> list[FigureLooks]:
    """Return what counts say of drift, those that alarmed first."""
    found = [
        FigureLooks(
            model=key.model,
            release_id=key.release_id,
            figure=label,
            looks=count,
            alarms=counts.get(labelled("drift_alarms", label), 0),
        )
        for key, counts in totals.items()
        for (row, label), count in ((unlabelled(name), count) for name, count in counts.items())
        if row == "drift_looks" and count
    ]
    return sorted(found, key=lambda each: (not each.alarms, each.model, each.release_id, each.figure))


def measured(series: Series) -> Measured | None:
    """Return what a series says, or None when it says what no recorder could have measured."""
    if max(len(series.model), len(series.release_id)) > _MAX_NAME or len(series.counts) > _MAX_COUNTS:
        return None
    if any(len(name) > _MAX_COUNT_NAME for name in series.counts):
        return None
    counts = {name: count for name, count in series.counts.items() if travels(name, MetricKind.COUNT)}
    sketches = {name: sketch for name, sketch in series.sketches.items() if travels(name, MetricKind.HISTOGRAM)}
    if not all(0 <= count <= _MAX_COUNT for count in counts.values()):
        return None
    if not all(_plausible(sketch) for sketch in sketches.values()):
        return None
    return Measured(counts=counts, sketches=sketches)


def _plausible(sketch: Sketch) -> bool:
    return (
        len(sketch.bins) <= _MAX_BINS
        and all(0 < count <= _MAX_COUNT and abs(index) < _MAX_BINS for index, count in sketch.bins.items())
        and 0 <= sketch.zeros <= _MAX_COUNT
        and math.isfinite(sketch.total)
        and sketch.total >= 0
    )
