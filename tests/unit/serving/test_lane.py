"""One lane: a request's tensors to a model's and back, and whose fault it is when that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.models.lane import Lane
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared.errors import InvalidInputError, ModelFailedError, PipelineError
from shared.manifest import TensorSpec
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
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import models
from tests.support.interpreters import DirectedInterpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_LABELS = tuple("abcdefghij")
_NAMED = PipelineSpec(steps=(RunModel(), TopLabels(count=2)), labels=_LABELS)


class _TwoInputs:
    """A model of two inputs that subtracts them."""

    inputs = (
        TensorSpec(name="left", dtype="float32", shape=(-1, 2)),
        TensorSpec(name="right", dtype="float32", shape=(-1, 2)),
    )
    outputs = (TensorSpec(name="difference", dtype="float32", shape=(-1, 2)),)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Compute."""
        return [inputs[0] - inputs[1]]


def _infer(*arrays: Tensor, names: tuple[str, ...] = ("anything",)) -> InferRequest:
    return InferRequest(inputs=tuple(NamedTensor(name=n, array=a) for n, a in zip(names, arrays, strict=True)))


def _one_hot(position: int, rows: int = 1) -> Tensor:
    return np.repeat(np.eye(10, dtype=np.float32)[[position]], rows, axis=0)


def _lane(spec: PipelineSpec = MODEL_ONLY, *, model: bytes | None = None) -> Lane:
    return Lane(spec, LiteRtInterpreter(model or models.one_hot_classifier(), threads=1))


def test_model_of_one_input_takes_it_under_any_name() -> None:
    assert _lane().run(_infer(_one_hot(3), names=("serving_default_x:0",))).top == "3"


def test_model_of_two_inputs_takes_them_by_name_in_any_order() -> None:
    left, right = np.array([[5, 7]], np.float32), np.array([[1, 2]], np.float32)
    outcome = Lane(MODEL_ONLY, _TwoInputs()).run(_infer(right, left, names=("right", "left")))
    assert outcome.outputs[0].array.tolist() == [[4, 5]]


@pytest.mark.parametrize(
    ("names", "said"), [(("left",), "takes 2 inputs"), (("left", "write"), "input 'right' is missing")]
)
def test_model_of_two_inputs_without_one_of_them_is_the_callers_fault(names: tuple[str, ...], said: str) -> None:
    arrays = [np.zeros((1, 2), np.float32) for _ in names]
    with pytest.raises(PipelineError, match=said) as refusal:
        Lane(MODEL_ONLY, _TwoInputs()).run(_infer(*arrays, names=names))
    assert not isinstance(refusal.value, ModelFailedError)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.zeros((0, 10), np.float32), id="no rows"),
        pytest.param(np.zeros((1, 9), np.float32), id="another width"),
        pytest.param(np.zeros((), np.float32), id="no batch axis"),
        pytest.param(np.zeros((1, 10), np.float64), id="another type"),
        pytest.param(np.array([["a"] * 10], dtype=object), id="text"),
    ],
)
@pytest.mark.parametrize("batch", [1, -1], ids=["fixed batch", "free batch"])
def test_attack_request_that_fits_no_model_is_never_the_models_fault(array: Tensor, batch: int) -> None:
    lane = _lane(model=models.random_classifier(10, 10, seed=1, batch=batch))
    with pytest.raises(PipelineError) as refusal:
        lane.run(_infer(array))
    assert not isinstance(refusal.value, ModelFailedError)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.zeros((0, 10), np.float32), id="no rows"),
        pytest.param(np.zeros((), np.float32), id="no batch axis"),
        pytest.param(np.full((1, 10), np.nan, np.float32), id="no numbers"),
        pytest.param(np.array([["a"] * 10], dtype=object), id="text"),
    ],
)
def test_attack_item_that_no_pipeline_takes_is_never_the_models_fault(array: Tensor) -> None:
    with pytest.raises(PipelineError) as refusal:
        _lane(_NAMED).run(_infer(array))
    assert not isinstance(refusal.value, ModelFailedError)


def test_pipeline_takes_one_input_only() -> None:
    with pytest.raises(PipelineError, match="one input, got 2"):
        _lane(_NAMED).run(_infer(_one_hot(1), _one_hot(2), names=("a", "b")))


def _broken(_items: Tensor) -> Tensor:
    raise RuntimeError("out of order")


def _silent(items: Tensor) -> Tensor:
    return np.full_like(items, np.nan)


@pytest.mark.parametrize(("compute", "said"), [(_broken, "out of order"), (_silent, "NaN")])
def test_model_that_breaks_on_a_good_item_is_to_blame(compute: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(ModelFailedError, match=said):
        Lane(_NAMED, DirectedInterpreter(compute)).run(_infer(_one_hot(1)))


def test_lane_answers_again_after_its_model_broke() -> None:
    broken = True

    def _compute(items: Tensor) -> Tensor:
        return _broken(items) if broken else items

    lane = Lane(MODEL_ONLY, DirectedInterpreter(_compute))
    with pytest.raises(ModelFailedError):
        lane.run(_infer(_one_hot(1)))
    broken = False
    assert lane.run(_infer(_one_hot(1))).top == "1"


@given(rows=st.integers(1, 9), position=st.integers(0, 9))
def test_batch_of_a_model_with_a_fixed_batch_is_answered_row_by_row(rows: int, position: int) -> None:
    outcome = _lane().run(_infer(_one_hot(position, rows)))
    assert outcome.outputs[0].array.argmax(axis=1).tolist() == [position] * rows


def test_batch_with_labels_is_named_row_by_row() -> None:
    outcome = _lane(_NAMED).run(_infer(np.concatenate([_one_hot(0), _one_hot(9)])))
    assert [output.name for output in outcome.outputs] == ["scores", "labels"]
    assert outcome.outputs[1].array.tolist() == ["a", "j"]


def test_pipeline_without_labels_gives_scores_alone() -> None:
    outcome = _lane(PipelineSpec(steps=(RunModel(), Softmax()))).run(_infer(_one_hot(4)))
    assert [output.name for output in outcome.outputs] == ["scores"]
    assert outcome.top == "4"


def test_image_for_a_model_of_tensors_is_the_callers_fault() -> None:
    with pytest.raises(PipelineError):
        _lane().run(ClassifyRequest(encoded=b"\xff\xd8\xff"))


@pytest.mark.parametrize(
    ("answer", "confidence"),
    [
        (np.array([[0.25, 0.75]]), 0.75),
        (np.array([[0.0, 1.0]]), 1.0),
        (np.array([[-1.0, 0.5]]), None),
        (np.array([[3.0, 9.0]]), None),
    ],
)
def test_score_is_a_confidence_only_where_all_scores_are_shares(answer: Tensor, confidence: float | None) -> None:
    outcome = Lane(MODEL_ONLY, DirectedInterpreter(lambda _: answer)).run(_infer(_one_hot(0)))
    assert (outcome.top, outcome.confidence) == ("1", confidence)


@pytest.mark.parametrize("answer", [np.zeros((1, 1)), np.zeros((1, 2, 2))])
def test_answer_that_ranks_nothing_has_no_best(answer: Tensor) -> None:
    outcome = Lane(MODEL_ONLY, DirectedInterpreter(lambda _: answer)).run(_infer(_one_hot(0)))
    assert (outcome.top, outcome.confidence) == ("", None)
    assert outcome.values.shape == (answer.size,)


def test_outcome_tells_what_it_took() -> None:
    outcome = _lane().run(_infer(_one_hot(1)))
    assert outcome.invoke_ms > 0.0
    assert outcome.compute_ms >= 0.0


_GREY = DecodeImage(colour=ColourMode.GREY)


@pytest.mark.parametrize(
    ("steps", "dtype", "shape"),
    [
        ((Normalise(), RunModel()), "float32", (-1, 2, 5, 1)),
        ((_GREY, RunModel()), "uint8", (-1, 2, 5, 1)),
        ((_GREY, ResizeImage(height=2, width=5), RunModel()), "uint8", (-1, -1, -1, 1)),
        ((ResizeImage(height=2, width=5), Normalise(), RunModel()), "float32", (-1, -1, -1, 1)),
    ],
)
def test_pipeline_says_what_it_takes_and_not_what_its_model_takes(
    steps: tuple[Any, ...], dtype: str, shape: tuple[int, ...]
) -> None:
    lane = _lane(PipelineSpec(steps=steps), model=models.one_hot_classifier(input_shape=(2, 5, 1)))
    assert lane.inputs == (TensorSpec(name="input", dtype=dtype, shape=shape),)


def test_pipeline_says_what_it_gives() -> None:
    assert [(spec.name, spec.shape) for spec in _lane(_NAMED).outputs] == [("scores", (-1, 10)), ("labels", (-1,))]


def test_pipeline_and_model_that_do_not_belong_together_are_refused_when_joined() -> None:
    with pytest.raises((PipelineError, InvalidInputError)):
        _lane(PipelineSpec(steps=(RunModel(), TopLabels()), labels=("a", "b")))
