"""Measurements as values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.telemetry.measurements import Measured, measured
from shared.ids import ModelName, ReleaseId
from shared.sketches import Sketch
from shared.wire import Series


def series(counts: dict[str, int] | None = None, sketches: dict[str, Sketch] | None = None) -> Series:
    return Series(model=ModelName("digits"), release_id=ReleaseId("r1"), counts=counts or {}, sketches=sketches or {})


def sketch(*values: float) -> Sketch:
    made = Sketch()
    for value in values:
        made.add(value)
    return made


def test_series_keeps_what_is_known_and_leaves_the_rest() -> None:
    content = measured(series({"requests": 3, "unknown": 1, "latency_ms": 4}, {"latency_ms": sketch(1.0)}))
    assert content is not None
    assert content.counts == {"requests": 3}
    assert list(content.sketches) == ["latency_ms"]


@pytest.mark.parametrize(
    "impossible",
    [
        series({"requests": -1}),
        series({"requests": 10**12}),
        series(sketches={"latency_ms": Sketch(bins={1: 0})}),
        series(sketches={"latency_ms": Sketch(bins={5000: 1})}),
        series(sketches={"latency_ms": Sketch(bins=dict.fromkeys(range(-3000, 3000), 1))}),
        series(sketches={"latency_ms": Sketch(zeros=-1)}),
        series(sketches={"latency_ms": Sketch(total=math.inf)}),
        series(sketches={"latency_ms": Sketch(total=-1.0)}),
    ],
)
def test_attack_series_that_no_recorder_measured_is_none(impossible: Series) -> None:
    assert measured(impossible) is None


def test_sum_changes_neither_part() -> None:
    left = Measured(counts={"requests": 1}, sketches={"latency_ms": sketch(1.0)})
    right = Measured(counts={"requests": 2, "request_errors": 1}, sketches={"latency_ms": sketch(2.0, 3.0)})
    total = left.plus(right)
    assert total.counts == {"requests": 3, "request_errors": 1}
    assert total.sketches["latency_ms"].count == 3
    assert (left.sketches["latency_ms"].count, right.sketches["latency_ms"].count) == (1, 2)


any_measured = st.builds(
    Measured,
    counts=st.dictionaries(st.sampled_from(["requests", "request_errors"]), st.integers(0, 1000)),
    sketches=st.dictionaries(
        st.sampled_from(["latency_ms", "invoke_ms"]),
        st.lists(st.integers(0, 500), max_size=5).map(lambda v: sketch(*v)),
    ),
)


@given(parts=st.lists(any_measured, min_size=1, max_size=4), order=st.permutations(range(4)))
def test_sum_of_windows_is_the_same_in_whatever_order_they_come(parts: list[Measured], order: list[int]) -> None:
    def _sum(windows: list[Measured]) -> Measured:
        total = Measured(counts={}, sketches={})
        for window in windows:
            total = total.plus(window)
        return total

    assert _sum([parts[place] for place in order if place < len(parts)]) == _sum(parts)


@given(values=st.lists(st.floats(0, 1e12), max_size=20), requests=st.integers(0, 10**9))
def test_series_that_a_recorder_measured_is_always_taken(values: list[float], requests: int) -> None:
    assert measured(series({"requests": requests}, {"latency_ms": sketch(*values)})) is not None


@pytest.mark.parametrize("name", ["model", "release_id"])
def test_attack_name_wider_than_its_column_is_none(name: str) -> None:
    names = {"model": "digits", "release_id": "r1"}
    assert measured(Series(**{**names, name: "x" * 64})) is None  # type: ignore[arg-type] # names, as a device sends them
    assert measured(Series(**{**names, name: "x" * 63})) is not None  # type: ignore[arg-type] # as above


def test_attack_count_under_the_name_of_a_sketch_is_left_out() -> None:
    content = measured(series({"latency_ms": 10**15}, {"requests": sketch(1.0)}))
    assert content == Measured(counts={}, sketches={})
