"""A mergeable quantile sketch with a bound on its relative error.

Source: Masson, Rim, Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch", VLDB 2019.
Merging adds counts, so the order of merging does not matter and a fleet's sketch is the sum of its devices' sketches.
"""

from __future__ import annotations

import math

import msgspec

RELATIVE_ACCURACY = 0.01
"""1 %: finer than run-to-run noise of any device, and a latency range of 1 µs to 1 h still takes < 1,200 bins."""
_GAMMA = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY)
LOG_GAMMA = math.log(_GAMMA)
"""Width of a bin: a value belongs to `ceil(log(value) / LOG_GAMMA)`."""
SMALLEST = 1e-9
"""Nanoseconds, where milliseconds are counted: as good as nothing."""
LARGEST = 1e12
"""30 years in milliseconds. With an end to the bins, no value and no bin that a device sends can overflow a double."""
_LAST_BIN = math.ceil(math.log(LARGEST) / LOG_GAMMA)


class Sketch(msgspec.Struct, kw_only=True):
    """Counts by logarithmic bin; `zeros` holds values at or below 1e-9. Mutable, because it sits in a hot path."""

    bins: dict[int, int] = {}
    zeros: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one value; below 0 counts as 0 and above 1e12 as that. NaN is no value and is not counted."""
        # A measurement must never break what is measured, so that nothing here raises.
        if value > SMALLEST:
            value = min(value, LARGEST)
            self.total += value
            index = math.ceil(math.log(value) / LOG_GAMMA)
            self.bins[index] = self.bins.get(index, 0) + 1
        elif value <= SMALLEST:
            self.total += max(value, 0.0)
            self.zeros += 1

    def merge(self, other: Sketch) -> None:
        """Add all that `other` has counted."""
        self.zeros += other.zeros
        self.total += other.total
        for index, count in other.bins.items():
            self.bins[index] = self.bins.get(index, 0) + count

    def subtract(self, earlier: Sketch) -> Sketch:
        """Return what was counted since `earlier`, a previous state of this same sketch."""
        # A bin that shrank belongs to a recorder that started again; it must not turn into a negative count.
        bins = {i: c - earlier.bins.get(i, 0) for i, c in self.bins.items() if c > earlier.bins.get(i, 0)}
        return Sketch(bins=bins, zeros=self.zeros - earlier.zeros, total=self.total - earlier.total)

    def copy(self) -> Sketch:
        """Return an independent copy."""
        return Sketch(bins=dict(self.bins), zeros=self.zeros, total=self.total)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return self.zeros + sum(self.bins.values())

    @property
    def mean(self) -> float | None:
        """The exact mean, or None when nothing was counted."""
        count = self.count
        return self.total / count if count else None

    def quantile(self, share: float) -> float | None:
        """Return the value at `share` (0..1) within 1 % relative error, or None when nothing was counted."""
        count = self.count
        if count == 0:
            return None
        # Ranks from 0, so that 0 is the least value and 1 the greatest.
        rank = share * (count - 1)
        seen = self.zeros
        if rank < seen:
            return 0.0
        for index in sorted(self.bins):
            seen += self.bins[index]
            if rank < seen:
                return _middle(index)
        return _middle(max(self.bins, default=0))


def _middle(index: int) -> float:
    """Return the value whose relative distance to both ends of a bin is the same."""
    return 2 * _GAMMA ** min(index, _LAST_BIN) / (_GAMMA + 1)
