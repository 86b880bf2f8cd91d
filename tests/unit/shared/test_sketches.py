from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.sketches import RELATIVE_ACCURACY, Sketch

VALUES = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=200)


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch(bins={})
    for value in values:
        sketch.add(value)
    return sketch


@given(values=VALUES, share=st.floats(0, 1))
def test_quantile_is_within_the_promised_relative_error(values: list[float], share: float) -> None:
    exact = sorted(values)[int(share * (len(values) - 1))]
    measured = sketch_of(values).quantile(share)
    assert measured == pytest.approx(exact, rel=RELATIVE_ACCURACY * 1.001)


@given(left=VALUES, right=VALUES)
def test_merge_equals_counting_everything_in_one(left: list[float], right: list[float]) -> None:
    merged = sketch_of(left)
    merged.merge(sketch_of(right))
    together = sketch_of(left + right)
    assert merged.bins == together.bins
    assert merged.total == pytest.approx(together.total)


@given(before=VALUES, after=VALUES)
def test_subtract_leaves_what_was_counted_since(before: list[float], after: list[float]) -> None:
    running = sketch_of(before)
    earlier = running.copy()
    for value in after:
        running.add(value)
    assert running.subtract(earlier).bins == sketch_of(after).bins


def test_empty_sketch_has_no_quantile_and_no_mean() -> None:
    assert Sketch(bins={}).quantile(0.5) is None
    assert Sketch(bins={}).mean is None


def test_zero_is_counted_and_sorted_first() -> None:
    sketch = sketch_of([0.0, 0.0, 5.0])
    assert sketch.count == 3
    assert sketch.quantile(0.5) == 0.0


@pytest.mark.parametrize(("value", "counted"), [(-3.0, 0.0), (float("-inf"), 0.0), (1e300, 1e12), (float("inf"), 1e12)])
def test_value_out_of_range_counts_as_the_nearest_that_is_none(value: float, counted: float) -> None:
    sketch = sketch_of([value])
    assert sketch.count == 1
    assert sketch.mean == counted
    assert sketch.quantile(0.5) == pytest.approx(counted, rel=RELATIVE_ACCURACY * 1.001)


def test_nan_is_not_counted_and_spoils_nothing() -> None:
    sketch = sketch_of([1.0, float("nan"), 3.0])
    assert (sketch.count, sketch.mean) == (2, 2.0)


@pytest.mark.parametrize("text", ['{"bins":{"999999":1}}', '{"bins":{"-999999":1}}', '{"bins":{"5":2},"zeros":-1}'])
def test_sketch_attack_with_impossible_counts_has_a_finite_quantile(text: str) -> None:
    hostile = msgspec.json.decode(text, type=Sketch)
    merged = sketch_of([1.0])
    merged.merge(hostile)
    for share in (0.0, 0.5, 1.0, 2.0, -1.0):
        value = merged.quantile(share)
        assert value is not None
        assert math.isfinite(value)


@given(parts=st.lists(VALUES, min_size=3, max_size=3))
def test_merge_gives_the_same_in_any_order(parts: list[list[float]]) -> None:
    forth, back = Sketch(), Sketch()
    for part in parts:
        forth.merge(sketch_of(part))
    for part in reversed(parts):
        back.merge(sketch_of(part))
    assert forth.bins == back.bins


@pytest.mark.parametrize("value", [1e-9, 2e-9, 1e-3, 1.0, 1e11, 1e12])
def test_quantile_at_the_ends_of_the_range_is_within_the_promised_error(value: float) -> None:
    measured = sketch_of([value]).quantile(0.5)
    assert measured == pytest.approx(value, rel=RELATIVE_ACCURACY * 1.001, abs=1e-9)


def test_default_sketches_share_no_counts() -> None:
    Sketch().add(1.0)
    assert Sketch().count == 0


def test_sketch_survives_the_wire() -> None:
    generator = random.Random(7)
    sketch = sketch_of([generator.lognormvariate(0, 1) for _ in range(100)])
    assert msgspec.json.decode(msgspec.json.encode(sketch), type=Sketch).bins == sketch.bins
