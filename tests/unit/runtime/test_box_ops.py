"""Boxes against plain formulas: decoding by hand, suppression by brute force, places in the image as it was sent."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.errors import ModelFailedError
from shared.pipeline import PipelineSpec
from shared.runtime.box_ops import lay_anchors, suppress
from shared.runtime.pipeline import CompiledPipeline
from shared.runtime.values import Box
from shared.steps import AnchorLayer
from tests.support.answering import Answering

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]


def detector(outputs: tuple[Tensor, ...], *before: dict[str, Any], **members: object) -> CompiledPipeline:
    count = len(outputs)
    model = {"type": "run_model", "id": "m", "outputs": list(range(count))}
    find = {"type": "detect_boxes", "takes": [f"m:{number}" for number in range(count)], **members}
    made = {"steps": [*before, model, find], "labels": ["cat", "dog"]}
    spec = msgspec.json.decode(json.dumps(made), type=PipelineSpec)
    return CompiledPipeline(spec, Answering(*outputs, takes=(100, 100, 3)))


def found(pipeline: CompiledPipeline, item: bytes | Tensor) -> tuple[Box, ...]:
    boxes = pipeline.answer(item).values["detect_boxes"]
    assert isinstance(boxes, tuple)
    return tuple(each for each in boxes if isinstance(each, Box))


def corners(box: Box) -> tuple[float, ...]:
    return tuple(round(each, 4) for each in (box.left, box.top, box.right, box.bottom))


def image(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "JPEG")
    return out.getvalue()


WHOLE = np.zeros((100, 100, 3), np.uint8)
MIDDLE = np.array([[0.5, 0.5, 0.2, 0.4, 0.9, 0.1]], np.float32)
DECODE = {"type": "decode_image"}


def plainly(boxes: list[tuple[int, ...]], classes: list[int], most: float, count: int) -> list[int]:
    """Suppression pair by pair, in whole pixels that are counted."""
    kept: list[int] = []
    cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in boxes]
    for place in range(len(boxes)):
        over = (
            len(cells[place] & cells[other]) > most * len(cells[place] | cells[other])
            for other in kept
            if classes[other] == classes[place]
        )
        if not any(over) and len(kept) < count:
            kept.append(place)
    return kept


_BOX = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(
    st.lists(st.tuples(_BOX, st.integers(0, 1)), max_size=12), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.integers(1, 5)
)
def test_suppression_keeps_what_brute_force_keeps(
    drawn: list[tuple[tuple[int, ...], int]], most: float, count: int
) -> None:
    boxes, classes = [box for box, _ in drawn], [number for _, number in drawn]
    array = np.array(boxes, float).reshape(-1, 4)
    assert suppress(array, np.array(classes, int), most, count) == plainly(boxes, classes, most, count)


@pytest.mark.parametrize(
    ("before", "sent", "expected"),
    [
        ([], WHOLE, (40, 30, 60, 70)),
        ([DECODE, {"type": "resize_image", "height": 100, "width": 100}], image(400, 200), (160, 60, 240, 140)),
        # 400 × 200 becomes 100 × 50 with bars of 25 above and below: the box's 40 rows show 160 of the image's.
        (
            [DECODE, {"type": "resize_image", "height": 100, "width": 100, "fit": "letterbox"}],
            image(400, 200),
            (160, 20, 240, 180),
        ),
        # The middle 200 × 200 of 400 × 200, twice as large as the model's 100 × 100.
        (
            [DECODE, {"type": "resize_image", "height": 100, "width": 100, "fit": "crop"}],
            image(400, 200),
            (180, 60, 220, 140),
        ),
        ([DECODE, {"type": "crop_image", "height": 100, "width": 100}], image(400, 200), (190, 80, 210, 120)),
        (
            [
                DECODE,
                {"type": "crop_image", "box": [0.5, 0, 1, 1]},
                {"type": "resize_image", "height": 100, "width": 100},
                {"type": "normalise", "scale": 0.1},
            ],
            image(400, 200),
            (280, 60, 320, 140),
        ),
    ],
)
def test_boxes_lie_where_they_are_in_the_image_as_it_was_sent(
    before: list[dict[str, Any]], sent: bytes | Tensor, expected: tuple[float, ...]
) -> None:
    (box,) = found(detector((MIDDLE,), *before, format="yolo"), sent)
    assert (box.label, round(box.score, 4), corners(box)) == ("cat", 0.9, expected)


def test_boxes_of_a_reduced_decode_lie_in_the_image_as_it_was_sent() -> None:
    steps: list[dict[str, Any]] = [DECODE, {"type": "resize_image", "height": 100, "width": 100}]
    (box,) = found(detector((MIDDLE,), *steps, format="yolo", answer="normalised"), image(1600, 1200))
    assert corners(box) == (0.4, 0.3, 0.6, 0.7)


def test_boxes_beyond_the_image_are_cut_at_its_edge() -> None:
    wide = np.array([[0.5, 0.5, 3, 0.4, 0.9, 0.1]], np.float32)
    assert corners(found(detector((wide,), format="yolo"), WHOLE)[0]) == (0, 30, 100, 70)


def test_yolo_with_objectness_multiplies_it_in() -> None:
    rows = np.array([[50, 50, 20, 40, 0.5, 0.2, 0.9]], np.float32)
    (box,) = found(detector((rows,), format="yolo", objectness=True, units="pixels", min_score=0.4), WHOLE)
    assert (box.label, round(box.score, 4), corners(box)) == ("dog", 0.45, (40, 30, 60, 70))


def test_ssd_offsets_are_from_anchors() -> None:
    anchors = [{"rows": 1, "columns": 2, "sizes": [[0.5, 0.25]]}]
    # dy, dx, dh, dw of the right one of two anchors: a tenth of its height down, and twice as wide.
    offsets = np.array([[0, 0, 0, 0], [1, 0, 0, np.log(2) / 0.2]], np.float32)
    scores = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8]], np.float32)
    (box,) = found(detector((offsets, scores), format="ssd", anchors=anchors, background=True), WHOLE)
    assert box.label == "dog"
    assert corners(box) == (50.0, 30.0, 100.0, 80.0)


@pytest.mark.parametrize("order", ["yxyx", "xyxy"])
def test_linear_offsets_are_shares_of_their_anchor_in_either_order(order: str) -> None:
    anchors = [{"rows": 2, "columns": 2, "sizes": [[1, 1]]}]
    # The last of four anchors, a tenth down and none across; 0.4 high and 0.2 wide.
    offset = [12.8, 0, 51.2, 25.6] if order == "yxyx" else [0, 12.8, 25.6, 51.2]
    offsets = np.array([[0, 0, -9, -9]] * 3 + [offset], np.float32)
    scores = np.array([[0.0], [0.0], [0.9], [0.95]], np.float32)
    (box, empty) = found(
        detector(
            (offsets, scores), format="ssd", anchors=anchors, order=order, sizes="linear", variances=[1 / 128] * 4
        ),
        WHOLE,
    )
    assert corners(box) == (65.0, 65.0, 85.0, 100.0)
    assert corners(empty) == (25.0, 75.0, 25.0, 75.0)


def test_anchors_stand_in_the_middle_of_their_cells_row_by_row() -> None:
    laid = lay_anchors([AnchorLayer(rows=2, columns=2, sizes=((0.1, 0.2), (0.3, 0.4)))])
    assert laid.shape == (8, 4)
    assert laid[:3].tolist() == [[0.25, 0.25, 0.1, 0.2], [0.25, 0.25, 0.3, 0.4], [0.25, 0.75, 0.1, 0.2]]
    assert laid[-1].tolist() == [0.75, 0.75, 0.3, 0.4]


def test_corners_that_the_model_has_judged_itself_are_counted_and_named() -> None:
    boxes = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.9, 0.9], [0, 0, 1, 1]], np.float32)
    outputs = (boxes, np.array([1, 0, 1], np.float32), np.array([0.6, 0.9, 0.9], np.float32), np.array([2], np.float32))
    dog_last = found(detector(outputs, format="corners"), WHOLE)
    assert [(box.label, corners(box)) for box in dog_last] == [("cat", (50, 50, 90, 90)), ("dog", (20, 10, 40, 30))]


def test_corners_with_scores_of_all_classes_take_the_best() -> None:
    boxes = np.array([[10, 20, 30, 40]], np.float32)
    (box,) = found(
        detector((boxes, np.array([[0.2, 0.7]], np.float32)), format="corners", order="xyxy", units="pixels"), WHOLE
    )
    assert (box.label, corners(box)) == ("dog", (10, 20, 30, 40))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_boxes_that_are_no_numbers_are_the_models_fault(value: float) -> None:
    broken = MIDDLE.copy()
    broken[0, 2] = value
    with pytest.raises(ModelFailedError, match="NaN or infinity"):
        detector((broken,), format="yolo").answer(WHOLE)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 6), (0, 6)])
def test_outputs_of_other_shapes_are_the_releases_fault_or_no_box(shape: tuple[int, ...]) -> None:
    pipeline = detector((np.zeros(shape, np.float32),), format="yolo")
    if shape == (0, 6):
        assert found(pipeline, WHOLE) == ()
        return
    with pytest.raises(ModelFailedError):
        pipeline.answer(WHOLE)


def test_thousands_of_boxes_are_bounded() -> None:
    rows = np.random.default_rng(0).random((20_000, 6)).astype(np.float32)
    assert len(found(detector((rows,), format="yolo", min_score=0.0, max_overlap=1.0, count=50), WHOLE)) == 50
