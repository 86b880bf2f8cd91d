"""What `check` accepts and refuses of a pipeline, and what it says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from shared import pipeline
from shared.errors import InvalidInputError
from shared.pipeline import DecodeImage, Normalise, PipelineSpec, ResizeImage, RunModel, Softmax, TopLabels
from shared.pipeline_graph import Kind

DECODE, MODEL = {"type": "decode_image"}, {"type": "run_model"}
LABELS = ["a", "b"]
TWO_MODELS: list[dict[str, Any]] = [
    {"type": "run_model", "id": "small"},
    {"type": "softmax", "id": "first"},
    {"type": "run_model", "id": "large", "model": "large", "takes": ["request"]},
    {"type": "softmax", "id": "second"},
]


def spec(*steps: dict[str, Any], **members: object) -> PipelineSpec:
    return msgspec.json.decode(json.dumps({"steps": steps, **members}), type=PipelineSpec)


def problem_of(made: PipelineSpec, components: tuple[str, ...] = ()) -> str:
    with pytest.raises(InvalidInputError) as caught:
        pipeline.check(made, components)
    return str(caught.value)


def test_bytes_of_pipelines_that_were_signed_before_have_not_changed() -> None:
    steps = (
        DecodeImage(),
        ResizeImage(height=8, width=9),
        Normalise(scale=0.1),
        RunModel(),
        Softmax(),
        TopLabels(count=2),
    )
    assert msgspec.json.encode(PipelineSpec(steps=steps, labels=("a", "b")), order="sorted") == (
        b'{"labels":["a","b"],"steps":[{"colour":"RGB","type":"decode_image"},'
        b'{"height":8,"type":"resize_image","width":9},{"offset":0.0,"scale":0.1,"type":"normalise"},'
        b'{"type":"run_model"},{"type":"softmax"},{"count":2,"type":"top_labels"}]}'
    )


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([DECODE, MODEL], Kind.BYTES),
        ([{"type": "resize_image", "height": 4, "width": 4}, MODEL], Kind.IMAGE),
        ([{"type": "frame_audio", "length": 4, "hop": 2}, MODEL], Kind.AUDIO),
        ([MODEL], Kind.TENSOR),
        ([{"type": "normalise"}, MODEL], Kind.TENSOR),
    ],
)
def test_request_is_what_the_first_steps_take(steps: list[dict[str, Any]], kind: Kind) -> None:
    assert pipeline.check(spec(*steps)).request is kind


def test_steps_without_names_are_called_by_their_type() -> None:
    made = spec(
        {"type": "normalise"},
        {"type": "normalise"},
        {"type": "run_model", "takes": ["normalise_2"]},
        {"type": "softmax"},
    )
    assert [node.id for node in pipeline.check(made).nodes] == ["normalise", "normalise_2", "run_model", "softmax"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"type": "run_model", "id": "request"}], "means the request"),
        ([MODEL, {"type": "softmax", "id": "run_model"}], "is taken"),
        ([MODEL, {"type": "softmax", "takes": ["nobody"]}], "no step 'nobody'"),
        ([{"type": "normalise", "takes": ["run_model"]}, MODEL], "no step 'run_model' stands before"),
        ([MODEL, {"type": "softmax", "takes": ["run_model:1"]}], "gives 1 values"),
        ([MODEL, {"type": "softmax"}, {"type": "sigmoid", "takes": ["run_model"]}], "nothing takes 'softmax'"),
        ([MODEL, {"type": "ensemble"}], "takes several values"),
        ([MODEL, {"type": "softmax", "takes": ["run_model", "run_model"]}], "names 2: softmax takes 1"),
        ([MODEL, {"type": "top_labels"}, {"type": "softmax"}], "softmax cannot take labels"),
        ([MODEL, {"type": "threshold", "min_score": 0.5}], "threshold cannot take tensor"),
        ([DECODE, {"type": "frame_audio", "length": 4, "hop": 2}, MODEL], "frame_audio cannot take image"),
        ([{"type": "normalise"}, {"type": "resize_image", "height": 4, "width": 4}, MODEL], "cannot take tensor"),
        ([DECODE, MODEL, {"type": "ensemble", "takes": ["run_model", "request"]}], "cannot take the request"),
        ([{"type": "run_model", "model": "large"}], "the release's own model"),
        ([MODEL, {"type": "quantise"}], "quantises for no model"),
        ([{"type": "frame_audio", "length": 4, "hop": 2, "content": "log_mels"}, MODEL], "mels need to know"),
        ([{"type": "softmax"} for _ in range(70)] + [MODEL], "more than 64"),
    ],
)
def test_graph_that_could_not_run_is_refused_with_what_is_wrong(steps: list[dict[str, Any]], said: str) -> None:
    assert said in problem_of(spec(*steps, labels=LABELS))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "decode_image", "max_pixels": 0}, "max_pixels"),
        ({"type": "decode_image", "max_pixels": 10**9}, "max_pixels"),
        ({"type": "resize_image", "height": 4, "width": 4, "fill": 9}, "only a letterbox"),
        ({"type": "resize_image", "height": 4, "width": 4, "fit": "letterbox", "fill": 256}, "0..255"),
        ({"type": "crop_image"}, "says not what to cut out"),
        ({"type": "crop_image", "height": 4}, "says not what to cut out"),
        ({"type": "crop_image", "height": 4, "width": 4, "box": [0, 0, 1, 1]}, "says it twice"),
        ({"type": "crop_image", "height": 0, "width": 4}, "1..8192"),
        ({"type": "crop_image", "box": [0.5, 0, 0.5, 1]}, "empty"),
        ({"type": "crop_image", "box": [0, 0, 1.5, 1]}, "outside"),
        ({"type": "normalise", "mean": []}, "mean"),
        ({"type": "normalise", "std": [1, 0]}, "std: is 0"),
        ({"type": "normalise", "mean": [1, 2], "std": [1, 2, 3]}, "2 channels and std 3"),
        ({"type": "run_model", "outputs": []}, "is empty"),
        ({"type": "run_model", "outputs": [0, 0]}, "twice"),
        ({"type": "run_model", "outputs": [-1]}, "counts from 0"),
        ({"type": "run_model", "inputs": ["x", "y"]}, "one input for each"),
        ({"type": "tensor_map"}, "does nothing"),
        ({"type": "tensor_map", "concat": 0}, "nothing to join"),
        ({"type": "tensor_map", "transpose": [0, 0]}, "each axis once"),
        ({"type": "tensor_map", "reshape": [-1, -1]}, "one of which may be -1"),
        ({"type": "tensor_map", "select": {"axis": 0, "indices": []}}, "must name"),
        ({"type": "tensor_map", "reduce": {"axis": 9}}, "reduce.axis"),
    ],
)
def test_parameters_that_cannot_be_are_refused_by_name(step: dict[str, Any], said: str) -> None:
    steps = [step] if step["type"] in {"decode_image", "run_model", "normalise", "tensor_map"} else [DECODE, step]
    if step["type"] != "run_model":
        steps = [*steps, MODEL]
    assert said in problem_of(spec(*steps))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "decode_audio", "sample_rate_hz": 10}, "sample_rate_hz"),
        ({"type": "decode_audio", "sample_rate_hz": 16000, "max_seconds": 1e9}, "max_seconds"),
        ({"type": "decode_audio", "sample_rate_hz": 192_000, "max_seconds": 600}, "max_seconds"),
        ({"type": "decode_audio", "sample_rate_hz": 192_000, "samples": 100_000_000}, "samples"),
        ({"type": "decode_audio", "sample_rate_hz": 16000, "samples": 0}, "samples"),
        ({"type": "frame_audio", "length": 0, "hop": 2}, "length"),
        ({"type": "frame_audio", "length": 4, "hop": 0}, "hop"),
        ({"type": "frame_audio", "length": 4, "hop": 2, "fft_length": 2}, "holds no frame"),
        ({"type": "frame_audio", "length": 4, "hop": 2, "floor": 0}, "above 0"),
        ({"type": "frame_audio", "length": 4, "hop": 2, "low_hz": 500, "high_hz": 400}, "below high_hz"),
        ({"type": "frame_audio", "length": 4, "hop": 2, "content": "log_mels", "high_hz": 9000}, "at most 8000"),
    ],
)
def test_parameters_of_sound_that_cannot_be_are_refused_by_name(step: dict[str, Any], said: str) -> None:
    before = [] if step["type"] == "decode_audio" else [{"type": "decode_audio", "sample_rate_hz": 16000}]
    assert said in problem_of(spec(*before, step, MODEL))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "ensemble", "method": "weighted"}, "0 weights for 2"),
        ({"type": "ensemble", "weights": [1, 2]}, "2 weights"),
        ({"type": "ensemble", "method": "weighted", "weights": [0, 0]}, "are all 0"),
        ({"type": "ensemble", "method": "weighted", "weights": [-1, 2]}, "at least 0"),
        ({"type": "cascade"}, "says not when"),
        ({"type": "cascade", "min_margin": -0.1}, "at least 0"),
        ({"type": "switch", "cases": []}, "has 0 cases"),
        ({"type": "switch", "cases": [{}]}, "has 1 cases and takes 2"),
        ({"type": "json", "keys": ["a"]}, "one for each"),
        ({"type": "json", "keys": ["a", "a"]}, "one for each"),
        ({"type": "json", "keys": ["a", "b"], "digits": 99}, "digits"),
    ],
)
def test_parameters_of_several_branches_that_cannot_be_are_refused(step: dict[str, Any], said: str) -> None:
    assert said in problem_of(spec(*TWO_MODELS, {**step, "takes": ["first", "second"]}), ("large",))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"format": "ssd"}, "ssd takes 2 values"),
        ({"format": "corners"}, "corners takes 2 or 3 or 4 values"),
        ({"format": "yolo", "anchors": [{"rows": 1, "columns": 1, "sizes": [[1, 1]]}]}, "has no anchors"),
        ({"format": "yolo", "sizes": "linear"}, "no anchors to be sized by"),
        ({"format": "yolo", "min_score": 2}, "min_score"),
        ({"format": "yolo", "max_overlap": -1}, "max_overlap"),
        ({"format": "yolo", "count": 0}, "count"),
        ({"format": "yolo", "variances": [0, 1, 1, 1]}, "variances"),
    ],
)
def test_parameters_of_boxes_that_cannot_be_are_refused(members: dict[str, Any], said: str) -> None:
    assert said in problem_of(spec(MODEL, {"type": "detect_boxes", **members}))


def test_components_must_be_carried_and_run() -> None:
    made = spec(*TWO_MODELS, {"type": "cascade", "takes": ["first", "second"], "min_score": 0.9})
    pipeline.check(made, ("large",))
    assert "no component 'large'" in problem_of(made)
    assert "no step runs 'other'" in problem_of(made, ("large", "other"))
    assert pipeline.component_names(made) == ("large",)


def test_answers_must_be_steps() -> None:
    assert "no step 'x'" in problem_of(spec(MODEL, answers=["x"]))
    assert "twice" in problem_of(spec(MODEL, answers=["run_model", "run_model"]))


@pytest.mark.parametrize(
    "step", [{"type": "softmax", "axis": 1}, {"type": "resize_image", "height": 1, "width": 1, "fitt": 1}]
)
def test_member_that_a_device_would_not_know_is_refused(step: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        spec(step)
