"""What was measured since this process started. Cumulative, and kept for releases that have just left."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from agent.core.plan import PairStats, SeriesStats, Stats
from agent.serving.recording.tally import Tally
from agent.serving.recording.work import Work, summed
from agent.serving.traffic.comparison import PairTally
from shared.metrics import CALLS, MetricKind, labelled
from shared.sketches import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.core.plan import SlotSpec
    from agent.serving.exchange import CallProtocol, Reply
    from agent.serving.requests import Outcome
    from shared.errors import LitefleetError
    from shared.ids import BootId, ModelName, ReleaseId

    Pair = tuple[ModelName, ReleaseId, ReleaseId]

GONE_KEPT: Final = 32
"""Releases remembered after they left: control reads at least every minute, and no minute sees so many come and go."""

CLASSES_KEPT: Final = 64
"""Classes of one release that are counted apart, first come first; a model of thousands would fill every dashboard."""
OTHER: Final = "other"

_SKETCHES: Final = tuple(row.name for row in CALLS if row.upwards and row.kind is MetricKind.HISTOGRAM)


class Held(Protocol):
    """A release that this process has."""

    @property
    def slot(self) -> SlotSpec:
        """Which one."""
        ...


class Series:
    """The metrics of one release, by the rows of `shared.metrics`."""

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self._tallies: dict[CallProtocol, Tally] = {}
        self._sketches = {name: Sketch() for name in _SKETCHES}

    def answered(self, reply: Reply, *, ready_s: float) -> None:
        """Count a request that this release answered, ready to be sent at `ready_s` (monotonic)."""
        tally = self._tallies.get(reply.ask.caller.protocol) or self._begin(reply.ask.caller.protocol)
        if tally.answered(reply, ready_s=ready_s):
            tally.fold(self._sketches)
        top = reply.outcome.top
        if top:
            classes = self.classes
            if top not in classes and len(classes) >= CLASSES_KEPT:
                top = OTHER
            classes[top] = classes.get(top, 0) + 1

    def refused(self, error: LitefleetError, protocol: CallProtocol, *, took_s: float) -> None:
        """Count a request that the caller got wrong, or that found the queue full."""
        tally = self._tallies.get(protocol) or self._begin(protocol)
        tally.failed(error.reason, took_s=took_s, is_own=False)

    def failed(self, error: LitefleetError, protocol: CallProtocol, *, took_s: float) -> None:
        """Count a request that this release failed."""
        tally = self._tallies.get(protocol) or self._begin(protocol)
        tally.failed(error.reason, took_s=took_s, is_own=True)

    def ran(self, outcome: Outcome) -> None:
        """Count a run that nobody got an answer from: control compares what it took, and no caller waited for it."""
        self._sketches["invoke_ms"].add(outcome.invoke_ms)
        if outcome.confidence is not None:
            self._sketches["confidence"].add(outcome.confidence)

    @property
    def tallies(self) -> Mapping[CallProtocol, Tally]:
        """What came by each protocol, counted to the last row."""
        for tally in self._tallies.values():
            tally.fold(self._sketches)
        return self._tallies

    @property
    def work(self) -> Work:
        """What the answers took, over all protocols."""
        return summed(self.tallies.values())

    @property
    def sketches(self) -> dict[str, Sketch]:
        """The live sketches, by name."""
        for tally in self._tallies.values():
            tally.fold(self._sketches)
        return self._sketches

    @property
    def counts(self) -> dict[str, int]:
        """The counts that travel upwards, by name."""
        tallies = self._tallies.values()
        return {
            "requests": sum(each.requests for each in tallies),
            "request_errors": sum(sum(each.errors.values()) for each in tallies),
            "request_refusals": sum(sum(each.refusals.values()) for each in tallies),
            **{labelled("classes", label): count for label, count in self.classes.items()},
        }

    def _begin(self, protocol: CallProtocol) -> Tally:
        return self._tallies.setdefault(protocol, Tally())


class Recorder:
    """All series and comparisons of this life of the process. Used on the event loop only."""

    def __init__(self, boot_id: BootId) -> None:
        self.boot_id = boot_id
        self._series: dict[tuple[ModelName, ReleaseId], Series] = {}
        self._pairs: dict[Pair, PairTally] = {}
        self._shadows: dict[Pair, PairTally] = {}
        self._versions: dict[ReleaseId, int] = {}

    def series(self, model: ModelName, release: ReleaseId) -> Series:
        """Return the series of a release on a line (`digits`, or `digits@blue`), empty at first."""
        found = self._series.get((model, release))
        return self._series.setdefault((model, release), Series()) if found is None else found

    def pairs(self, model: ModelName, *, candidate: ReleaseId, stable: ReleaseId, by_rule: bool = False) -> PairTally:
        """Return the comparison of two releases, empty at first; which of the two answers makes no difference.

        `by_rule`: of a traffic rule's shadow (`candidate`, on its own line) with who answered.
        """
        held = self._shadows if by_rule else self._pairs
        return held.setdefault((model, candidate, stable), PairTally())

    def hold(self, held: Mapping[ReleaseId, Held]) -> None:
        """Forget the releases that left longest ago, or a process that lives for years would keep every one it saw."""
        self._versions |= {release: each.slot.version_number for release, each in held.items()}
        seen = dict.fromkeys(release for _, release in self._series)
        gone = [release for release in seen if release not in held]
        dropped = frozenset(gone[:-GONE_KEPT])
        # What never answered anything has no series to be told with.
        self._versions = {
            release: number
            for release, number in self._versions.items()
            if release in held or (release in seen and release not in dropped)
        }
        if not dropped:
            return
        self._series = {key: kept for key, kept in self._series.items() if key[1] not in dropped}
        self._pairs = {key: kept for key, kept in self._pairs.items() if not dropped.intersection(key[1:])}
        self._shadows = {key: kept for key, kept in self._shadows.items() if not dropped.intersection(key[1:])}

    def version_of(self, release: ReleaseId) -> str:
        """Return the number by which callers address a release; the release itself where nobody told it."""
        number = self._versions.get(release)
        return release if number is None else str(number)

    @property
    def every_series(self) -> Mapping[tuple[ModelName, ReleaseId], Series]:
        """All series, by line and release."""
        return self._series

    @property
    def every_pair(self) -> Mapping[Pair, PairTally]:
        """All comparisons of candidates, by line, candidate and stable."""
        return self._pairs

    @property
    def every_shadow(self) -> Mapping[Pair, PairTally]:
        """All comparisons of rules' shadows, by the shadow's line, the shadow and who answered."""
        return self._shadows

    def stats(self, observed: Mapping[tuple[ModelName, ReleaseId], Mapping[str, int]] = MappingProxyType({})) -> Stats:
        """Return everything; the sketches are the live ones, to be encoded before the loop goes on.

        `observed` are further counts, by line and release.
        """
        return Stats(
            boot_id=self.boot_id,
            series=tuple(
                SeriesStats(
                    model=model,
                    release_id=release,
                    counts={**series.counts, **observed.get((model, release), {})},
                    sketches=series.sketches,
                )
                for (model, release), series in self._series.items()
            ),
            pairs=(*_told(self._pairs, by_rule=False), *_told(self._shadows, by_rule=True)),
        )


def _told(pairs: Mapping[Pair, PairTally], *, by_rule: bool) -> Iterator[PairStats]:
    for (model, candidate, stable), tally in pairs.items():
        yield PairStats(
            model=model,
            candidate=candidate,
            stable=stable,
            counts=tally.frozen(),
            by_rule=by_rule,
            distances=tuple(tally.distances),
            ratios=tuple(tally.ratios),
        )
