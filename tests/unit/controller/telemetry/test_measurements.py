"""Measurements as values."""

from __future__ import annotations

import math

import pytest

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
