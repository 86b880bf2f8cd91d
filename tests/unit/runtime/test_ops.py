"""Normalisation, quantisation and scores against the formulas they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import PipelineError
from shared.manifest import TensorSpec
from shared.runtime import ops
from shared.steps import Normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INT8 = TensorSpec(name="x", dtype="int8", shape=(1, 4), scale=0.05, zero_point=-3)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3), (2, 4, 5, 3), (4, 0, 3)])
def test_normalise_by_channel_is_its_formula_whatever_the_axes_before(shape: tuple[int, ...]) -> None:
    normaliser = ops.Normaliser(Normalise(scale=1 / 255, mean=MEAN, std=STD))
    item = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = (item / 255 - np.array(MEAN)) / np.array(STD)
    for each in (item, np.ascontiguousarray(item[::-1])[::-1]):
        made = normaliser.apply(each)
        assert (made.dtype.name, made.shape) == ("float32", shape)
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_normalise_of_images_of_other_widths_in_turn_is_its_formula_each_time() -> None:
    normaliser = ops.Normaliser(Normalise(std=(1.0, 2.0, 4.0)))
    for width in (3, 7, 3):
        made = normaliser.apply(np.ones((2, width, 3), np.uint8))
        np.testing.assert_array_equal(made, np.broadcast_to([1, 0.5, 0.25], (2, width, 3)))


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 4)])
def test_normalise_of_other_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PipelineError, match="3 channels"):
        ops.Normaliser(Normalise(mean=MEAN)).apply(np.zeros(shape, np.float32))


@given(hnp.arrays(np.float32, 4, elements=st.floats(-5, 5, width=32)))
def test_quantised_and_back_is_off_by_half_a_step_at_most(item: Tensor) -> None:
    there = ops.quantise(item, INT8)
    assert there.dtype == np.int8
    assert np.abs(ops.dequantise(there, INT8) - item).max() <= 0.025 + 1e-5


def test_quantised_beyond_the_range_is_its_end() -> None:
    made = ops.quantise(np.array([1e9, -1e9, 0, 0.05], np.float32), INT8)
    assert made.tolist() == [127, -128, -3, -2]


def test_integers_without_a_scale_are_refused_and_nan_has_no_integer() -> None:
    bare = TensorSpec(name="x", dtype="int32", shape=(1, 4))
    with pytest.raises(PipelineError, match="without a scale"):
        ops.quantise(np.zeros(4, np.float32), bare)
    with pytest.raises(PipelineError, match="NaN"):
        ops.quantise(np.array([np.nan], np.float32), INT8)


@given(hnp.arrays(np.float32, st.integers(1, 6), elements=st.floats(-200, 200, width=32)))
def test_sigmoid_and_softmax_are_their_formulas(logits: Tensor) -> None:
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(ops.sigmoid(logits), 1 / (1 + np.exp(-wide)), atol=1e-6)
    powers = np.exp(wide - wide.max())
    np.testing.assert_allclose(ops.softmax(logits), powers / powers.sum(), atol=1e-6)
