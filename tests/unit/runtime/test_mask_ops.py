"""Areas against counting pixels one by one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import ModelFailedError, PipelineError
from shared.pipeline import PipelineSpec
from shared.runtime.frames import Frame
from shared.runtime.mask_ops import segment
from shared.runtime.pipeline import CompiledPipeline
from shared.runtime.values import Areas
from shared.steps import Segment
from tests.support.answering import Answering

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

LABELS = ("sky", "cat", "dog")
MASK = np.array([[0, 1, 1], [0, 1, 2]])


@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 3)))
def test_runs_and_shares_give_the_mask_back(mask: Tensor) -> None:
    told = segment(mask, Segment(), LABELS, Frame.of(mask.shape[1], mask.shape[0]))
    rebuilt = np.full(mask.size, -1)
    for area in told.areas:
        number = LABELS.index(area.label) if area.label in LABELS else int(area.label)
        for start, length in zip(area.runs[::2], area.runs[1::2], strict=True):
            assert (rebuilt[start : start + length] == -1).all()
            rebuilt[start : start + length] = number
        assert area.share == pytest.approx((mask == number).mean())
        rows, columns = np.nonzero(mask == number)
        assert area.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_array_equal(rebuilt.reshape(mask.shape), mask)
    assert [area.share for area in told.areas] == sorted((area.share for area in told.areas), reverse=True)


def test_scores_are_decided_and_the_background_is_left_out() -> None:
    scores = np.eye(3, dtype=np.float32)[MASK]
    told = segment(scores, Segment(background=0, min_share=0.2, runs=False), LABELS, Frame.of(300, 200))
    assert [(area.label, area.share, area.box, area.runs) for area in told.areas] == [
        ("cat", 0.5, (100, 0, 300, 200), ())
    ]


def test_bars_of_a_letterbox_are_no_part_of_the_answer() -> None:
    steps = [
        {"type": "resize_image", "height": 4, "width": 4, "fit": "letterbox"},
        {"type": "run_model"},
        {"type": "segment"},
    ]
    spec = msgspec.json.decode(json.dumps({"steps": steps, "labels": LABELS}), type=PipelineSpec)
    mask = np.array([[2, 2, 2, 2], [0, 1, 1, 0], [0, 1, 1, 0], [2, 2, 2, 2]])
    model = Answering(np.eye(3, dtype=np.float32)[mask], takes=(4, 4, 3))
    told = CompiledPipeline(spec, model).answer(np.zeros((20, 40, 3), np.uint8)).values["segment"]
    assert isinstance(told, Areas)
    assert (told.height, told.width) == (2, 4)
    assert {area.label: area.box for area in told.areas} == {"sky": (0, 0, 40, 20), "cat": (10, 0, 30, 20)}


def test_mask_of_no_numbers_is_the_models_fault() -> None:
    with pytest.raises(ModelFailedError, match="NaN"):
        segment(np.full((2, 2, 3), np.nan), Segment(), LABELS, Frame.of(2, 2))


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 5), (4,)])
def test_mask_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PipelineError, match="segment takes"):
        segment(np.zeros(shape, np.float32), Segment(), LABELS, Frame.of(2, 2))
