"""Drift of one release on this device: counts of what was asked, looked at when they have doubled.

A window is looked at after 128, 256 and 512 requests, and then begins anew. See `shared.runtime.drift` for what a look
concludes, and how often it may be wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from shared.runtime import drift

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.manifest import ReferenceHistogram

LOOKS: Final = (128, 256, 512)
"""Items in a window at which it is looked at: the first soon, the last with the power to see a shift of 0.1."""


class FigureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """What the last look at one figure found."""

    figure: str
    psi: float
    threshold: float
    """What the index had to exceed at that look."""
    items: int
    """Requests in the window at that look."""
    looks: int
    """Looks until then, that one included."""
    alarms: int
    """Of those looks, the ones that found drift."""
    drifted: bool


class DriftMonitor:
    """Counts the figures of one release that its manifest has a reference of."""

    def __init__(self, references: Sequence[ReferenceHistogram], *, monitors: int = 1) -> None:
        """Begin with empty windows. `monitors` is in how many processes of this device the release is watched."""
        # Another process looks at the same figures once more.
        figures = len(references) * monitors
        self._windows = {each.name: _Window(each, figures=figures) for each in references}
        self.items = 0
        """Requests that were counted."""
        self.found: tuple[FigureDrift, ...] = ()
        """Of each figure that was looked at, replaced as a whole: another thread may read it."""

    @property
    def figures(self) -> frozenset[str]:
        """What it has references of."""
        return frozenset(self._windows)

    def count(self, figures: Mapping[str, float]) -> None:
        """Count one request; figures without a reference are passed over."""
        self.items += 1
        changed = [name for name, value in figures.items() if name in self._windows and self._windows[name].add(value)]
        if changed:
            self.found = tuple(each.found for each in self._windows.values() if each.found is not None)


class _Window:
    def __init__(self, reference: ReferenceHistogram, *, figures: int) -> None:
        self._reference, self._figures = reference, figures
        self._looks = self._alarms = self._items = 0
        self._counts = [0] * len(reference.counts)
        self.found: FigureDrift | None = None

    def add(self, value: float) -> bool:
        """Count one value; returns whether it was time to look."""
        self._counts[drift.bin_of(self._reference, value)] += 1
        self._items += 1
        if self._items not in LOOKS:
            return False
        self._looks += 1
        self.found = self._look()
        if self._items == LOOKS[-1]:
            self._items, self._counts = 0, [0] * len(self._counts)
        return True

    def _look(self) -> FigureDrift:
        expected = self._reference.counts
        chance = drift.chance_of_look(self._looks, self._figures)
        index, limit = drift.psi(expected, self._counts), drift.threshold(expected, self._counts, chance=chance)
        self._alarms += index > limit
        return FigureDrift(
            figure=self._reference.name,
            psi=index,
            threshold=limit,
            items=self._items,
            looks=self._looks,
            alarms=self._alarms,
            drifted=index > limit,
        )
