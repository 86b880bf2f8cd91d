"""Windows that add up to exactly what happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.plan import SeriesStats, Stats
from agent.link.telemetry import TelemetryWindow
from shared.ids import BootId, ModelName, ReleaseId
from shared.sketches import Sketch
from shared.traffic import MAIN, line_of

if TYPE_CHECKING:
    from shared.wire import Telemetry

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = ModelName("digits")


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def stats(boot: str, requests: dict[str, int]) -> Stats:
    return Stats(
        boot_id=BootId(boot),
        series=tuple(
            SeriesStats(
                model=MODEL,
                release_id=ReleaseId(release),
                counts={"requests": count},
                sketches={"latency_ms": sketch_of(count)},
            )
            for release, count in requests.items()
        ),
    )


def sketch_of(count: int) -> Sketch:
    sketch = Sketch()
    for value in range(count):
        sketch.add(float(value + 1))
    return sketch


def requests_in(window: Telemetry | None) -> dict[str, int]:
    return {} if window is None else {series.release_id: series.counts["requests"] for series in window.series}


def test_window_holds_what_was_added_since_the_one_before() -> None:
    window = TelemetryWindow()
    window.add(stats("a", {"r1": 10}), at(0))
    first = window.close(at(60))
    window.add(stats("a", {"r1": 25}), at(61))
    window.add(stats("a", {"r1": 30}), at(90))
    second = window.close(at(120))
    assert first is not None
    assert second is not None
    assert (requests_in(first), requests_in(second)) == ({"r1": 10}, {"r1": 20})
    assert (second.window_start, second.window_s) == (at(60), 60.0)
    assert second.series[0].sketches["latency_ms"].count == 20


def test_window_tells_a_release_once_whichever_variants_it_ran_as() -> None:
    window = TelemetryWindow()
    ran = [
        SeriesStats(model=line_of(MODEL, variant), release_id=ReleaseId("r1"), counts={"requests": count})
        for variant, count in ((MAIN, 10), ("blue", 5))
    ]
    for times, second in ((1, 0), (2, 60)):
        grown = tuple(replace(each, counts={"requests": times * each.counts["requests"]}) for each in ran)
        window.add(Stats(boot_id=BootId("a"), series=grown), at(second))
        told = window.close(at(second + 30))
        assert told is not None
        assert [(each.model, each.counts["requests"]) for each in told.series] == [(MODEL, 15)]


def test_window_without_anything_new_is_none() -> None:
    window = TelemetryWindow()
    assert window.close(at(0)) is None
    window.add(stats("a", {"r1": 10}), at(1))
    window.close(at(60))
    window.add(stats("a", {"r1": 10}), at(61))
    assert window.close(at(120)) is None


def test_window_over_a_serving_restart_counts_both_lives() -> None:
    window = TelemetryWindow()
    window.add(stats("a", {"r1": 10}), at(0))
    window.close(at(60))
    window.add(stats("a", {"r1": 15}), at(61))
    window.add(stats("b", {"r1": 3}), at(62))
    assert requests_in(window.close(at(120))) == {"r1": 8}


def test_window_of_a_release_that_came_back_starts_from_zero() -> None:
    window = TelemetryWindow()
    window.add(stats("a", {"r1": 10, "r2": 1}), at(0))
    window.add(stats("a", {"r2": 2}), at(1))
    window.add(stats("a", {"r1": 4, "r2": 2}), at(2))
    assert requests_in(window.close(at(60))) == {"r1": 14, "r2": 2}


def test_window_never_changes_the_measurements_it_was_given() -> None:
    window = TelemetryWindow()
    given_stats = stats("a", {"r1": 10})
    window.add(given_stats, at(0))
    window.add(stats("a", {"r1": 20}), at(1))
    assert given_stats == stats("a", {"r1": 10})


LIFE = st.lists(st.integers(min_value=0, max_value=5), max_size=12)


@given(st.lists(LIFE, min_size=1, max_size=4), st.sets(st.integers(min_value=0, max_value=50)))
def test_windows_cut_anywhere_add_up(lives: list[list[int]], cuts: set[int]) -> None:
    window, told, step = TelemetryWindow(), 0, 0
    for number, increments in enumerate(lives):
        total = 0
        for increment in increments:
            total += increment
            window.add(stats(f"boot-{number}", {"r1": total}), at(step))
            if step in cuts:
                told += requests_in(window.close(at(step))).get("r1", 0)
            step += 1
    told += requests_in(window.close(at(step))).get("r1", 0)
    assert told == sum(sum(increments) for increments in lives)


def test_classes_that_a_window_did_not_see_are_not_in_it() -> None:
    def seen(**classes: int) -> Stats:
        counts = {"requests": sum(classes.values()), **{f"classes/{name}": count for name, count in classes.items()}}
        series = SeriesStats(model=MODEL, release_id=ReleaseId("r1"), counts=counts)
        return Stats(boot_id=BootId("b1"), series=(series,))

    window = TelemetryWindow()
    window.add(seen(cat=3, dog=1), at(0))
    first = window.close(at(60))
    window.add(seen(cat=3, dog=2), at(61))
    second = window.close(at(120))
    assert first is not None
    assert second is not None
    assert first.series[0].counts == {"requests": 4, "classes/cat": 3, "classes/dog": 1}
    assert second.series[0].counts == {"requests": 1, "classes/dog": 1}
