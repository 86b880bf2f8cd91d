from __future__ import annotations

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


def test_default_sketches_share_no_counts() -> None:
    Sketch().add(1.0)
    assert Sketch().count == 0


def test_sketch_survives_the_wire() -> None:
    generator = random.Random(7)
    sketch = sketch_of([generator.lognormvariate(0, 1) for _ in range(100)])
    assert msgspec.json.decode(msgspec.json.encode(sketch), type=Sketch).bins == sketch.bins
