"""Pipelines of several models and branches: what is computed, what is not, and whose fault it is when it fails."""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import InvalidInputError, ModelFailedError, PipelineError
from shared.manifest import TensorSpec
from shared.pipeline import PipelineSpec, check, component_names
from shared.runtime.pipeline import CompiledPipeline
from shared.runtime.values import Answer, Fanned, to_json
from tests.support.answering import Answering

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

LABELS = ["a", "b", "c"]
SURE, UNSURE = np.array([0.05, 0.9, 0.05], np.float32), np.array([0.4, 0.3, 0.3], np.float32)
OTHER = np.array([0.1, 0.1, 0.8], np.float32)
NO_NUMBER = np.array([0.1, np.nan, 0.8], np.float32)
ITEM = np.zeros(4, np.float32)
BOTH: list[dict[str, Any]] = [
    {"type": "run_model", "id": "small"},
    {"type": "run_model", "id": "large", "model": "large", "takes": ["request"]},
]


def spec(*steps: dict[str, Any], **members: object) -> PipelineSpec:
    return msgspec.json.decode(json.dumps({"steps": steps, "labels": LABELS, **members}), type=PipelineSpec)


def both(
    last: dict[str, Any], small: Tensor, large: Tensor, *more: dict[str, Any]
) -> tuple[CompiledPipeline, Answering, Answering]:
    own, component = Answering(small, takes=(4,)), Answering(large, takes=(4,))
    made = spec(*BOTH, {"takes": ["small", "large"], **last}, *more)
    return CompiledPipeline(made, {"": own, "large": component}), own, component


def image(width: int = 20, height: int = 10) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_cascade_that_is_sure_leaves_the_large_model_in_peace() -> None:
    pipeline, small, large = both({"type": "cascade", "min_score": 0.8}, SURE, OTHER)
    np.testing.assert_array_equal(pipeline.answer(ITEM).scores, SURE)
    assert (len(small.fed), len(large.fed)) == (1, 0)


@pytest.mark.parametrize("rule", [{"min_score": 0.5}, {"min_margin": 0.2}, {"min_score": 0.3, "min_margin": 0.2}])
def test_cascade_that_is_unsure_asks_the_large_model(rule: dict[str, float]) -> None:
    pipeline, _, large = both({"type": "cascade", **rule}, UNSURE, OTHER)
    np.testing.assert_array_equal(pipeline.answer(ITEM).scores, OTHER)
    assert len(large.fed) == 1


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"method": "mean"}, (SURE + OTHER) / 2),
        ({"method": "weighted", "weights": [1, 3]}, (SURE + 3 * OTHER) / 4),
        ({"method": "vote"}, np.array([0, 0.5, 0.5])),
    ],
)
def test_ensemble_is_what_its_method_says(method: dict[str, Any], expected: Tensor) -> None:
    pipeline, _, _ = both({"type": "ensemble", **method}, SURE, OTHER)
    np.testing.assert_allclose(pipeline.answer(ITEM).scores, expected, rtol=1e-6)


def test_ensemble_of_other_shapes_is_the_releases_fault() -> None:
    pipeline, _, _ = both({"type": "ensemble"}, SURE, np.zeros(5, np.float32))
    with pytest.raises(ModelFailedError, match="scores of one shape"):
        pipeline.answer(ITEM)


def test_fan_out_tells_of_each_model_what_it_said_or_why_it_failed() -> None:
    pipeline, _, _ = both({"type": "fan_out"}, SURE, NO_NUMBER)
    answer = pipeline.answer(ITEM).values["fan_out"]
    assert isinstance(answer, Fanned)
    assert to_json(answer.values["small"], 2) == [0.05, 0.9, 0.05]
    assert isinstance(answer.values["large"], ModelFailedError)
    assert to_json(answer)["large"]["reason"] == "model_failed"  # type: ignore[call-overload,index] # an object


def test_fan_out_of_which_everything_fails_is_an_error() -> None:
    pipeline, _, _ = both({"type": "fan_out"}, NO_NUMBER, NO_NUMBER)
    with pytest.raises(ModelFailedError):
        pipeline.answer(ITEM)


@pytest.mark.parametrize(
    ("scores", "chosen"), [(SURE, "large"), (OTHER, "small"), (np.array([0.2, 0.5, 0.3], np.float32), "small")]
)
def test_switch_takes_the_branch_of_the_first_case_that_holds(scores: Tensor, chosen: str) -> None:
    looked, own, component = (
        Answering(scores, takes=(4,)),
        Answering(SURE, takes=(4,)),
        Answering(np.array([7.0], np.float32), takes=(4,)),
    )
    made = spec(
        {"type": "run_model", "id": "looked", "model": "looked"},
        {"type": "run_model", "id": "small", "takes": ["request"]},
        {"type": "run_model", "id": "large", "model": "large", "takes": ["request"]},
        {"type": "switch", "takes": ["looked", "large", "small"], "cases": [{"label": "b", "min_score": 0.8}]},
    )
    CompiledPipeline(made, {"": own, "large": component, "looked": looked}).answer(ITEM)
    assert {"large": len(component.fed), "small": len(own.fed)} == {
        "large": chosen == "large",
        "small": chosen == "small",
    }


def test_a_step_that_several_take_is_computed_once() -> None:
    model = Answering(SURE, takes=(4,))
    made = spec(
        {"type": "run_model", "id": "m"},
        {"type": "softmax", "takes": ["m"]},
        {"type": "sigmoid", "takes": ["m"]},
        {"type": "ensemble", "takes": ["m", "softmax", "sigmoid"]},
        answers=["ensemble", "softmax"],
    )
    answer = CompiledPipeline(made, model).answer(ITEM)
    assert len(model.fed) == 1
    assert list(answer.values) == ["ensemble", "softmax"]


def test_outputs_and_inputs_of_a_model_are_found_by_name_and_place() -> None:
    two = Answering(np.array([1.0], np.float32), np.array([2.0, 3.0], np.float32), takes=(4,))
    made = spec(
        {"type": "run_model", "id": "m", "outputs": ["y1", 0]},
        {"type": "tensor_map", "takes": ["m", "m:1"], "concat": 0, "select": {"axis": 0, "indices": [2, 0]}},
    )
    np.testing.assert_array_equal(CompiledPipeline(made, two).answer(ITEM).scores, [1.0, 2.0])
    with pytest.raises(PipelineError, match="no output 'y9'"):
        CompiledPipeline(spec({"type": "run_model", "outputs": ["y9"]}), two)
    with pytest.raises(PipelineError, match="no input 'z'"):
        CompiledPipeline(spec({"type": "run_model", "inputs": ["z"], "takes": ["request"]}, {"type": "fan_out"}), two)


@pytest.mark.parametrize(("how", "expected"), [("mean", [1.5, 1.0]), ("max", [2.0, 2.0])])
def test_scores_of_many_frames_become_those_of_all(how: str, expected: list[float]) -> None:
    frames = Answering(np.array([[1, 2], [2, 0]], np.float32), takes=(4,))
    made = spec({"type": "run_model"}, {"type": "tensor_map", "reduce": {"axis": 0, "by": how}})
    scores = CompiledPipeline(made, frames).answer(ITEM).scores
    assert scores.tolist() == expected


def test_axis_that_is_not_there_is_no_mean() -> None:
    made = spec({"type": "run_model"}, {"type": "tensor_map", "reduce": {"axis": 4}})
    with pytest.raises(PipelineError, match="tensor_map cannot take"):
        CompiledPipeline(made, Answering(SURE, takes=(4,))).answer(ITEM)


def test_full_integer_model_is_fed_and_read_by_its_scale() -> None:
    model = Answering(np.array([-128, 0, 127], np.int8), takes=(3,), dtype="int8")
    scaled = [msgspec.structs.replace(each, scale=0.5, zero_point=-1) for each in (*model.inputs, *model.outputs)]
    model.inputs, model.outputs = (scaled[0],), (scaled[1],)
    made = spec({"type": "quantise"}, {"type": "run_model"}, {"type": "dequantise"})
    scores = CompiledPipeline(made, model).answer(np.array([0.0, 1.0, 1e6], np.float32)).scores
    np.testing.assert_array_equal(model.fed[0][0], np.array([[-1, 1, 127]], np.int8))
    np.testing.assert_allclose(scores, [-63.5, 0.5, 64.0])
    with pytest.raises(PipelineError, match="add a quantise step"):
        CompiledPipeline(spec({"type": "run_model"}), model).answer(np.zeros(3, np.float32))


def test_quantise_before_a_float_model_does_nothing() -> None:
    model = Answering(SURE, takes=(3,))
    made = spec({"type": "quantise"}, {"type": "run_model"}, {"type": "dequantise"}, {"type": "top_labels", "count": 1})
    answer = CompiledPipeline(made, model).answer(np.array([0.25, 1, 2], np.float32))
    np.testing.assert_array_equal(model.fed[0][0], [[0.25, 1, 2]])
    assert answer.labels[0].label == "b"


def test_quantise_for_a_model_of_several_inputs_says_what_is_wrong() -> None:
    inputs = tuple(TensorSpec(name=name, dtype="int8", shape=(1, 4)) for name in "xy")
    model = Answering(SURE, inputs=inputs)
    with pytest.raises(PipelineError, match="several inputs"):
        CompiledPipeline(spec({"type": "quantise"}, {"type": "run_model"}), model)


def test_items_that_are_numbers_are_tensors_to_every_step() -> None:
    switch = {"type": "switch", "takes": ["request", "run_model", "run_model"], "cases": [{"min_score": 0.5}]}
    pipeline = CompiledPipeline(spec({"type": "run_model"}, switch), Answering(SURE, takes=()))
    # What numpy has of a batch (N,) for an item is a number, and no tensor.
    np.testing.assert_array_equal(pipeline.scores(np.zeros(2, np.float32)), [SURE, SURE])


def test_a_bad_item_among_many_fails_alone() -> None:
    made = spec(
        {"type": "decode_image"},
        {"type": "resize_image", "height": 2, "width": 2},
        {"type": "run_model"},
        {"type": "top_labels"},
    )
    answers = CompiledPipeline(made, Answering(SURE, takes=(2, 2, 3))).answer_many([image(), b"no image", image()])
    assert [isinstance(each, Answer) for each in answers] == [True, False, True]
    assert isinstance(answers[1], PipelineError)
    assert not isinstance(answers[1], ModelFailedError)


def test_bad_image_is_the_callers_fault_in_a_graph_too() -> None:
    made = spec(
        {"type": "decode_image"},
        {"type": "run_model", "id": "m"},
        {"type": "softmax"},
        {"type": "ensemble", "takes": ["softmax", "m"]},
    )
    with pytest.raises(PipelineError) as caught:
        CompiledPipeline(made, Answering(SURE, takes=(-1, -1, 3))).answer(b"no image")
    assert not isinstance(caught.value, ModelFailedError)


def test_graph_is_not_judged_and_says_which_step_makes_it_one() -> None:
    pipeline, _, _ = both({"type": "cascade", "min_score": 0.8}, SURE, OTHER)
    with pytest.raises(PipelineError, match="step large takes another value"):
        pipeline.prepare(ITEM)
    assert pipeline.scores(np.zeros((3, 4), np.float32)).shape == (3, 3)


def test_threshold_keeps_the_sure_and_says_what_else() -> None:
    steps = ({"type": "run_model"}, {"type": "top_labels", "count": 3})
    kept = spec(*steps, {"type": "threshold", "min_score": 0.35, "otherwise": "unknown"})
    assert [each.label for each in CompiledPipeline(kept, Answering(UNSURE)).answer(ITEM[:1]).labels] == ["a"]
    none = spec(*steps, {"type": "threshold", "min_score": 0.95, "otherwise": "unknown"})
    assert [each.label for each in CompiledPipeline(none, Answering(UNSURE)).answer(ITEM[:1]).labels] == ["unknown"]


def test_json_gives_the_answer_its_own_shape() -> None:
    pipeline, _, _ = both(
        {"type": "ensemble"},
        SURE,
        OTHER,
        {"type": "top_labels", "count": 1},
        {"type": "json", "takes": ["top_labels", "ensemble"], "keys": ["what", "how_sure"], "digits": 1},
    )
    said = to_json(pipeline.answer(ITEM).values["json"])
    assert said == {"what": [{"label": "b", "score": 0.5}], "how_sure": [0.1, 0.5, 0.4]}


_REFERENCES = ("request", "s0", "s1", "s2", "s3", "s4")
_ALL_STEPS: list[dict[str, Any]] = [
    {"type": "decode_image"},
    {"type": "decode_image", "colour": "L"},
    {"type": "resize_image", "height": 3, "width": 5},
    {"type": "resize_image", "height": 3, "width": 5, "fit": "letterbox"},
    {"type": "crop_image", "height": 2, "width": 2},
    {"type": "crop_image", "box": [0.9, 0.9, 1, 1]},
    {"type": "colour", "to": "bgr"},
    {"type": "colour", "to": "grey"},
    {"type": "normalise", "mean": [1, 2, 3]},
    {"type": "normalise", "scale": 1e38},
    {"type": "decode_audio", "sample_rate_hz": 8000},
    {"type": "frame_audio", "length": 4, "hop": 3, "content": "magnitudes"},
    {"type": "quantise"},
    {"type": "dequantise"},
    {"type": "run_model"},
    {"type": "run_model", "model": "large", "outputs": [1, 0]},
    {"type": "tensor_map", "reshape": [-1, 2]},
    {"type": "tensor_map", "concat": 0},
    {"type": "tensor_map", "transpose": [1, 0]},
    {"type": "tensor_map", "reduce": {"axis": -1, "by": "max"}},
    {"type": "switch", "cases": [{"label": "b"}]},
    {"type": "ensemble"},
    {"type": "ensemble", "method": "vote"},
    {"type": "cascade", "min_margin": 0.5},
    {"type": "fan_out"},
    {"type": "softmax"},
    {"type": "sigmoid"},
    {"type": "top_labels", "count": 2},
    {"type": "threshold", "min_score": 0.5},
    {"type": "detect_boxes", "format": "yolo", "min_score": 0.0},
    {"type": "detect_boxes", "format": "corners", "min_score": 0.0},
    {"type": "segment"},
    {"type": "json", "keys": ["k"]},
]
_STEPS = st.sampled_from(_ALL_STEPS)


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Steps that may well hang together."""
    made: list[dict[str, Any]] = []
    for place in range(draw(st.integers(1, 6))):
        step: dict[str, Any] = dict(draw(_STEPS))
        before = _REFERENCES[: place + 1]
        if draw(st.booleans()):
            step["takes"] = draw(st.lists(st.sampled_from(before), min_size=1, max_size=3))
        made.append({**step, "id": f"s{place}"})
    return made


@settings(max_examples=400, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(
    graphs(),
    st.sampled_from([(3,), (6,), (4, 6), (2, 4, 3), (1,), ()]),
    st.sampled_from([ITEM, np.zeros((9, 7, 3), np.uint8), np.zeros(64, np.float32), b"", image(3, 2)]),
    st.sampled_from([0.5, np.nan, 3e38]),
)
def test_what_check_accepts_answers_or_fails_in_the_words_of_the_contract(
    steps: list[dict[str, Any]], shape: tuple[int, ...], item: bytes | Tensor, value: float
) -> None:
    made = spec(*steps)
    try:
        check(made, component_names(made))
    except InvalidInputError:
        return
    own = Answering(np.full(shape, value, np.float32), takes=(-1,))
    other = Answering(np.full(shape, value, np.float32), np.ones((4, 6), np.float32), takes=(-1,))
    models = {"": own} | ({"large": other} if component_names(made) else {})
    # Whatever else is raised fails this test.
    with contextlib.suppress(PipelineError):
        answer = CompiledPipeline(made, models).answer(item)
        msgspec.json.encode({name: to_json(each) for name, each in answer.values.items()})
