"""What several serving processes have measured, added up; and what one of them has measured since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.plan import PairStats, SeriesStats, Stats
from agent.serving.recording import sums
from shared.ids import BootId, ModelName, ReleaseId
from shared.sketches import Sketch
from shared.wire import PairedCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

SUM = BootId("sum")
MODEL = ModelName("digits")


def sketch(*values: float) -> Sketch:
    made = Sketch()
    for value in values:
        made.add(value)
    return made


def series(release: str, requests: int, *values: float) -> SeriesStats:
    return SeriesStats(
        model=MODEL,
        release_id=ReleaseId(release),
        counts={"requests": requests},
        sketches={"latency_ms": sketch(*values)},
    )


def pair(pairs: int, *, by_rule: bool = False, distances: tuple[int, ...] = ()) -> PairStats:
    return PairStats(
        model=MODEL,
        candidate=ReleaseId("new"),
        stable=ReleaseId("old"),
        counts=PairedCounts(pairs=pairs, flips=1),
        by_rule=by_rule,
        distances=distances,
    )


def stats(boot: str, *held: SeriesStats, pairs: Sequence[PairStats] = ()) -> Stats:
    return Stats(boot_id=BootId(boot), series=held, pairs=tuple(pairs))


def test_counts_sketches_and_histograms_add_up_by_release() -> None:
    total = sums.add(
        [
            stats("a", series("old", 3, 1.0, 2.0), pairs=[pair(5, distances=(1, 2))]),
            stats("b", series("old", 4, 2.0), series("new", 1, 9.0), pairs=[pair(7, distances=(0, 1, 4))]),
        ],
        boot_id=SUM,
    )
    assert total.boot_id == SUM
    assert {each.release_id: each.counts["requests"] for each in total.series} == {"old": 7, "new": 1}
    assert total.series[0].sketches["latency_ms"] == sketch(1.0, 2.0, 2.0)
    assert total.pairs == (
        msgspec.structs.replace(pair(12, distances=(1, 3, 4)), counts=PairedCounts(pairs=12, flips=2)),
    )


def test_what_is_about_something_else_stays_apart() -> None:
    total = sums.add([stats("a", pairs=[pair(5)]), stats("b", pairs=[pair(7, by_rule=True)])], boot_id=SUM)
    assert [(each.by_rule, each.counts.pairs) for each in total.pairs] == [(False, 5), (True, 7)]


def test_adding_leaves_the_parts_as_they_are() -> None:
    one, other = stats("a", series("old", 3, 1.0)), stats("b", series("old", 4, 2.0))
    sums.add([one, other], boot_id=SUM)
    assert one == stats("a", series("old", 3, 1.0))
    assert other == stats("b", series("old", 4, 2.0))


def test_what_was_counted_since_is_the_difference() -> None:
    grown = sums.subtract(stats("a", series("old", 7, 1.0, 2.0), series("new", 2)), stats("a", series("old", 3, 1.0)))
    assert {each.release_id: each.counts["requests"] for each in grown.series} == {"old": 4, "new": 2}
    assert grown.series[0].sketches["latency_ms"] == sketch(2.0)


def test_counter_that_was_forgotten_and_began_again_is_never_negative() -> None:
    assert sums.subtract(stats("a", series("old", 1)), stats("a", series("old", 3))).series[0].counts["requests"] == 0


def test_kinds_that_cannot_be_added_are_a_mistake() -> None:
    class Odd(Stats, frozen=True, kw_only=True, tag="odd"):
        what: bytes = b""

    with pytest.raises(TypeError, match="bytes"):
        sums.subtract(Odd(boot_id=SUM, what=b"1"), Odd(boot_id=SUM, what=b"2"))


counted = st.dictionaries(st.sampled_from(["old", "new", "other"]), st.integers(0, 10**9))


@given(st.lists(counted, max_size=4))
def test_total_is_the_same_in_any_order_and_nothing_is_lost(parts: list[dict[str, int]]) -> None:
    told = [stats(str(n), *(series(name, count) for name, count in part.items())) for n, part in enumerate(parts)]
    for order in (told, told[::-1]):
        total = sums.add(order, boot_id=SUM)
        found = {str(each.release_id): each.counts["requests"] for each in total.series}
        assert found == {name: sum(part.get(name, 0) for part in parts) for part in parts for name in part}
