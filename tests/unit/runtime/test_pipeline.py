from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import InvalidInputError, ModelFailedError, PipelineError
from shared.pipeline import (
    MODEL_ONLY,
    ColourMode,
    DecodeImage,
    Normalise,
    PipelineSpec,
    ResizeImage,
    RunModel,
    Softmax,
    TopLabels,
)
from shared.runtime import ops
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline, LabelScore, top_answers
from tests.support.models import dense_classifier, one_hot_classifier, random_classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

DIGITS = tuple("0123456789")
IMAGE_PIPELINE = PipelineSpec(
    steps=(
        DecodeImage(colour=ColourMode.GREY),
        ResizeImage(height=8, width=8),
        Normalise(scale=1 / 255),
        RunModel(),
        TopLabels(count=3),
    ),
    labels=DIGITS,
)


def compiled(spec: PipelineSpec, model: bytes) -> CompiledPipeline:
    return CompiledPipeline(spec, LiteRtInterpreter(model, threads=1))


def encoded(pixels: Tensor, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=95)
    return buffer.getvalue()


def pictures(count: int, *shape: int) -> Tensor:
    return np.random.default_rng(3).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_pipeline_image_equals_array() -> None:
    pipeline = compiled(IMAGE_PIPELINE, random_classifier(64, 10, seed=1, input_shape=(8, 8, 1)))
    for pixels in pictures(5, 20, 30):
        from_image, from_array = pipeline.from_image(encoded(pixels)), pipeline.from_array(pixels[:, :, np.newaxis])
        assert from_image.labels == from_array.labels
        np.testing.assert_array_equal(from_image.scores, from_array.scores)


@pytest.mark.parametrize("batch", [1, -1])
def test_pipeline_scores_equal_single_answers(batch: int) -> None:
    pipeline = compiled(IMAGE_PIPELINE, random_classifier(64, 10, seed=1, input_shape=(8, 8, 1), batch=batch))
    items = pictures(40, 8, 8, 1)
    singly = np.stack([pipeline.from_array(item).scores for item in items])
    np.testing.assert_allclose(pipeline.scores(items), singly, rtol=1e-5, atol=1e-7)


def test_pipeline_top_labels_come_best_first() -> None:
    answer = compiled(
        PipelineSpec(steps=(RunModel(), TopLabels(count=2)), labels=("a", "b", "c")),
        dense_classifier(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), softmax=False),
    ).from_array(np.array([1, 3, 2], np.float32))
    assert answer.labels == (LabelScore(label="b", score=3.0), LabelScore(label="c", score=2.0))


def test_pipeline_equal_scores_come_in_order_of_labels() -> None:
    spec = PipelineSpec(steps=(RunModel(), TopLabels(count=3)), labels=("a", "b", "c"))
    answer = compiled(spec, one_hot_classifier(3)).from_array(np.ones(3, np.float32))
    assert [label.label for label in answer.labels] == ["a", "b", "c"]


def test_pipeline_softmax_makes_probabilities() -> None:
    model = dense_classifier(np.eye(3, dtype=np.float32) * 1000, np.zeros(3, np.float32), softmax=False)
    pipeline = compiled(PipelineSpec(steps=(RunModel(), Softmax())), model)
    scores = pipeline.from_array(np.array([1, 1, 0], np.float32)).scores
    np.testing.assert_allclose(scores, [0.5, 0.5, 0])


def test_pipeline_without_labels_gives_scores_only() -> None:
    answer = compiled(MODEL_ONLY, one_hot_classifier(4)).from_array(np.eye(4, dtype=np.float32)[2])
    assert answer.labels == ()
    assert answer.scores.argmax() == 2


@pytest.mark.parametrize("dtype", ["uint8", "float64", "int32"])
def test_pipeline_numbers_of_other_dtype_become_floats(dtype: str) -> None:
    pipeline = compiled(MODEL_ONLY, one_hot_classifier(4))
    assert pipeline.from_array(np.eye(4, dtype=dtype)[3]).scores.argmax() == 3


def test_pipeline_text_is_refused() -> None:
    with pytest.raises(PipelineError, match="cannot be turned into"):
        compiled(MODEL_ONLY, one_hot_classifier(4)).from_array(np.array(["1", "2", "3", "4"]))


def test_pipeline_nan_answer_is_refused_one_by_one_and_kept_for_evaluation() -> None:
    weights = np.full((4, 3), np.nan, np.float32)
    pipeline = compiled(MODEL_ONLY, dense_classifier(weights, np.zeros(3, np.float32), softmax=False))
    with pytest.raises(PipelineError, match="NaN"):
        pipeline.from_array(np.ones(4, np.float32))
    assert np.isnan(pipeline.scores(np.ones((2, 4), np.float32))).all()


def test_pipeline_labels_that_do_not_match_outputs_are_refused() -> None:
    spec = PipelineSpec(steps=(RunModel(), TopLabels()), labels=("a", "b"))
    with pytest.raises(PipelineError, match="2 labels for 3 outputs"):
        compiled(spec, one_hot_classifier(3))


def test_pipeline_of_steps_out_of_order_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot take tensor"):
        compiled(PipelineSpec(steps=(RunModel(), DecodeImage())), one_hot_classifier(3))


def test_pipeline_of_tensors_refuses_images() -> None:
    with pytest.raises(PipelineError, match="takes tensors, not images"):
        compiled(MODEL_ONLY, one_hot_classifier(3)).from_image(encoded(pictures(1, 8, 8)[0]))


def test_pipeline_item_of_wrong_shape_is_refused() -> None:
    with pytest.raises(PipelineError, match="takes shape"):
        compiled(MODEL_ONLY, one_hot_classifier(3)).from_array(np.ones(5, np.float32))


def test_pipeline_no_items_are_refused() -> None:
    with pytest.raises(PipelineError, match="no items"):
        compiled(MODEL_ONLY, one_hot_classifier(3)).scores(np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, -1e300])
@pytest.mark.parametrize("spec", [MODEL_ONLY, PipelineSpec(steps=(Normalise(scale=2.0), RunModel()))])
def test_pipeline_item_that_is_no_number_is_the_callers_fault_not_the_models(spec: PipelineSpec, value: float) -> None:
    item = np.array([1.0, value, 0.0])
    with pytest.raises(PipelineError, match="the item holds NaN, infinity") as caught:
        compiled(spec, one_hot_classifier(3)).from_array(item)
    assert not isinstance(caught.value, ModelFailedError)


def test_pipeline_item_over_the_range_after_scaling_is_the_callers_fault() -> None:
    spec = PipelineSpec(steps=(Normalise(scale=1e30), RunModel()))
    with pytest.raises(PipelineError, match="beyond float32"):
        compiled(spec, one_hot_classifier(3)).from_array(np.full(3, 1e9))


def test_pipeline_infinite_logits_of_the_model_are_the_models_fault() -> None:
    model = dense_classifier(np.full((3, 3), 3e38, np.float32), np.zeros(3, np.float32), softmax=False)
    pipeline = compiled(PipelineSpec(steps=(RunModel(), Softmax())), model)
    with pytest.raises(ModelFailedError, match="NaN or infinity"):
        pipeline.from_array(np.full(3, 100, np.uint8))


@pytest.mark.parametrize("item", [np.array(["a"]), np.array([1j]), np.array([None])])
def test_normalise_of_what_is_no_number_is_refused(item: Tensor) -> None:
    with pytest.raises(PipelineError, match="normalise takes numbers"):
        ops.Normaliser(Normalise()).apply(item)


def test_normalise_scales_and_offsets_without_touching_the_item() -> None:
    item = np.array([0, 128, 255], np.uint8)
    result = ops.Normaliser(Normalise(scale=2.0, offset=-1.0)).apply(item)
    np.testing.assert_array_equal(result, np.array([-1, 255, 509], np.float32))
    assert item[2] == 255


def test_top_answers_of_one_output_are_yes_and_no() -> None:
    assert top_answers(np.array([[0.2], [0.7]], np.float32)).tolist() == [0, 1]
