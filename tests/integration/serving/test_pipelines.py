"""Releases that run several models, and requests with several items, over the real API and the real runtime."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from agent.core.plan import ComponentSpec, SlotSpec, TrialRequest
from agent.serving.children.trial import run_trial
from shared import manifest
from shared.ids import ModelName, ReleaseId
from shared.manifest import Component
from shared.pipeline import PipelineSpec
from tests.support import models
from tests.support.inference_api import LABELS, image_slot, picture
from tests.support.serving import MODEL, make_slot, one_hot, plan_of

if TYPE_CHECKING:
    from tests.support.inference_api import Served

LARGE = models.one_hot_classifier(shift=1)
"""Names every input for its right neighbour, so that one sees who has answered."""


def spec(*steps: dict[str, Any], **members: object) -> PipelineSpec:
    return msgspec.json.decode(json.dumps({"steps": steps, "labels": LABELS, **members}), type=PipelineSpec)


def composed(releases: Path, pipeline: PipelineSpec, *, release: str = "release-stable") -> SlotSpec:
    """A release of the plain classifier whose pipeline runs another as `large`."""
    slot = make_slot(releases, models.one_hot_classifier(), pipeline=pipeline, release=ReleaseId(release))
    folder = Path(slot.folder)
    other = models.release_manifest(LARGE, release_id="release-large", name="large")
    component = Component(
        name="large", model=ModelName("large"), release_id=other.release_id, artifacts=other.artifacts
    )
    described = replace(manifest.decode((folder / "manifest.json").read_bytes()), components=(component,))
    (folder / "components").mkdir()
    (folder / "components" / "large.tflite").write_bytes(LARGE)
    data = manifest.encode(described)
    (folder / "manifest.json").write_bytes(data)
    held = ComponentSpec(name="large", artifact_sha256=manifest.digest(LARGE))
    return replace(slot, manifest_sha256=manifest.digest(data), components=(held,))


CASCADE = spec(
    {"type": "run_model", "id": "small"},
    {"type": "run_model", "id": "large", "model": "large", "takes": ["request"]},
    {"type": "cascade", "id": "sure", "takes": ["small", "large"], "min_score": 0.9},
    {"type": "top_labels", "count": 1},
)
FAN_OUT = spec(
    {"type": "run_model", "id": "small"},
    {"type": "run_model", "id": "large", "model": "large", "takes": ["request"]},
    {"type": "top_labels", "id": "one", "takes": ["small"], "count": 1},
    {"type": "top_labels", "id": "other", "takes": ["large"], "count": 1},
    {"type": "fan_out", "takes": ["one", "other"]},
)


def numbers(*rows: list[float]) -> bytes:
    tensor = {"name": "input", "shape": [len(rows), 10], "datatype": "FP32", "data": rows}
    return json.dumps({"inputs": [tensor]}).encode()


def said(body: dict[str, Any]) -> list[Any]:
    """What was said of each item, in JSON within the text of the one output."""
    return [json.loads(text) for text in body["outputs"][0]["data"]]


async def test_cascade_asks_the_large_model_only_when_the_small_one_is_unsure(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(composed(tmp_path, CASCADE)))
    unsure = [0.0] * 10
    status, body, _ = await served.post(f"/v2/models/{MODEL}/infer", numbers(one_hot(3), unsure))
    assert status == 200
    answers = said(body)
    assert answers[0][0]["label"] == "d"
    assert answers[1][0]["score"] < 0.9


async def test_fan_out_tells_what_each_model_said(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(composed(tmp_path, FAN_OUT)))
    status, body, _ = await served.post(f"/v2/models/{MODEL}/infer", numbers(one_hot(3)))
    assert status == 200
    assert {name: each[0]["label"] for name, each in said(body)[0].items()} == {"one": "d", "other": "e"}


@pytest.mark.parametrize("damage", ["missing", "altered", "other"])
async def test_component_that_is_not_what_was_signed_is_never_loaded(
    served: Served, tmp_path: Path, damage: str
) -> None:
    slot = composed(tmp_path, FAN_OUT)
    file = Path(slot.folder) / "components" / "large.tflite"
    if damage == "missing":
        file.unlink()
    elif damage == "altered":
        file.write_bytes(LARGE[:-1] + b"x")
    else:
        slot = replace(slot, components=(ComponentSpec(name="large", artifact_sha256=slot.artifact_sha256),))
    applied = await served.engine.apply(plan_of(slot))
    expected = {"missing": "model_load_failed", "altered": "digest_mismatch", "other": "untrusted"}
    assert not applied.slots[0].loaded
    assert applied.slots[0].error.startswith(expected[damage])


async def test_release_of_several_models_is_tried_whole(tmp_path: Path) -> None:
    slot = composed(tmp_path, FAN_OUT)
    request = TrialRequest(folder=slot.folder, max_memory_bytes=2 * 1024**3, deadline_s=30.0)
    assert (await run_trial(request)).reason == ""
    (Path(slot.folder) / "components" / "large.tflite").write_bytes(models.one_hot_classifier(shift=2))
    assert (await run_trial(request)).reason.startswith("untrusted: ")


async def test_component_that_answers_otherwise_than_where_it_was_made_fails_the_trial(tmp_path: Path) -> None:
    slot = composed(tmp_path, FAN_OUT)
    path = Path(slot.folder) / "manifest.json"
    described = manifest.decode(path.read_bytes())
    (component,) = described.components
    lying = replace(component.artifacts[0], golden=models.golden_check(models.one_hot_classifier(shift=5)))
    path.write_bytes(manifest.encode(replace(described, components=(replace(component, artifacts=(lying,)),))))
    request = TrialRequest(folder=slot.folder, max_memory_bytes=2 * 1024**3, deadline_s=30.0)
    reason = (await run_trial(request)).reason
    assert reason.startswith("golden_mismatch")
    assert reason.endswith("(component large)")


@pytest.mark.parametrize("kind", ["json", "form"])
async def test_many_images_in_one_request_have_a_result_each(served: Served, tmp_path: Path, kind: str) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    items = [picture(3), b"no image", picture(8)]
    if kind == "json":
        data = json.dumps({"items": [base64.b64encode(each).decode() for each in items]}).encode()
        header = "application/json"
    else:
        parts = [b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + each + b"\r\n" for each in items]
        data, header = b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"
    status, body, _ = await served.post(f"/v2/models/{MODEL}/classify", data, {"Content-Type": header})
    assert status == 200
    results = body["results"]
    assert [each["labels"][0]["label"] for each in (results[0], results[2])] == ["d", "i"]
    assert results[1]["error"]["reason"] == "pipeline_failed"


@pytest.mark.parametrize(
    "data", [b"[]", b'{"items": []}', b'{"items": ["?"]}', json.dumps({"items": [""] * 257}).encode()]
)
async def test_list_of_items_that_is_none_is_refused(served: Served, tmp_path: Path, data: bytes) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    headers = {"Content-Type": "application/json"}
    status, body, _ = await served.post(f"/v2/models/{MODEL}/classify", data, headers)
    assert (status, body["reason"]) == (400, "invalid_input")


async def test_encoded_images_as_texts_behind_the_json_are_classified(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    raw = b"".join(struct.pack("<I", len(each)) + each for each in (picture(3), picture(8)))
    tensor = {"name": "image", "shape": [2, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, body, _ = await served.post(f"/v2/models/{MODEL}/infer", head + raw, headers)
    assert status == 200
    outputs = {each["name"]: each for each in body["outputs"]}
    assert outputs["labels"]["data"] == ["d", "i"]
    assert np.array(outputs["scores"]["data"]).reshape(2, 10).argmax(axis=1).tolist() == [3, 8]


async def test_one_bad_image_among_texts_refuses_the_request_and_says_which(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    data = [base64.b64encode(each).decode() for each in (picture(3), b"no image")]
    tensor = {
        "name": "image",
        "shape": [2],
        "datatype": "BYTES",
        "data": data,
        "parameters": {"content_type": "base64"},
    }
    status, body, _ = await served.post(f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode())
    assert status == 400
    assert "item 1" in body["detail"]


async def test_tfserving_rows_of_images_are_answered_together(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    rows = [{"b64": base64.b64encode(picture(each)).decode()} for each in (3, 8)]
    status, body, _ = await served.post(f"/v1/models/{MODEL}:predict", json.dumps({"instances": rows}).encode())
    assert status == 200
    assert [int(np.argmax(row)) for row in body["predictions"]] == [3, 8]


async def test_boxes_are_told_in_the_answer_of_classify(served: Served, tmp_path: Path) -> None:
    pipeline = spec(
        {"type": "decode_image", "colour": "L"},
        {"type": "resize_image", "height": 1, "width": 10},
        {"type": "normalise", "scale": 1 / 255},
        {"type": "run_model"},
        {"type": "tensor_map", "reshape": [1, 10]},
        {"type": "detect_boxes", "format": "yolo", "min_score": 0.0, "answer": "normalised"},
    )
    model = models.one_hot_classifier(input_shape=(1, 10, 1))
    await served.engine.apply(plan_of(make_slot(tmp_path, model, pipeline=pipeline)))
    headers = {"Content-Type": "image/png"}
    status, body, _ = await served.post(f"/v2/models/{MODEL}/classify", picture(7), headers)
    assert status == 200
    (box,) = body["answers"]["detect_boxes"]
    assert (box["label"], len(box["box"])) == ("d", 4)


async def test_pipeline_that_breaks_on_every_image_fails_the_trial(tmp_path: Path) -> None:
    pipeline = spec(
        {"type": "decode_image", "colour": "L"},
        {"type": "resize_image", "height": 1, "width": 10},
        {"type": "run_model"},
        {"type": "segment"},
    )
    slot = make_slot(tmp_path, models.one_hot_classifier(input_shape=(1, 10, 1)), pipeline=pipeline)
    request = TrialRequest(folder=slot.folder, max_memory_bytes=2 * 1024**3, deadline_s=30.0)
    assert (await run_trial(request)).reason == "model_failed: segment takes (H, W, classes) or (H, W), got (10,)"


async def test_component_with_other_outputs_than_labels_is_refused_by_name(served: Served, tmp_path: Path) -> None:
    slot = composed(tmp_path, replace(FAN_OUT, labels=("only", "two")))
    applied = await served.engine.apply(plan_of(slot))
    assert applied.slots[0].error == "pipeline_failed: the pipeline names 2 labels for 10 outputs"
