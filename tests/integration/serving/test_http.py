from __future__ import annotations

import asyncio
import io
import json
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.core.plan import Plan, Route
from agent.serving.protocols.api import MAX_BODY_BYTES
from shared.ids import ModelName
from tests.support import models
from tests.support.inference_api import image_slot, picture
from tests.support.serving import CANDIDATE, MODEL, STABLE, infer_body, make_slot, one_hot, plan_of
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served


async def test_server_tells_who_it_is(served: Served) -> None:
    status, body = await served.get("/v2")
    assert (status, body["name"]) == (200, "litefleet")
    assert body["extensions"] == ["binary_tensor_data", "model_repository", "statistics"]


async def test_server_is_live_before_it_is_ready(served: Served, stable: SlotSpec) -> None:
    assert await served.get("/v2/health/live") == (200, {"live": True})
    status, body = await served.get("/v2/health/ready")
    assert (status, body["reason"]) == (503, "starting: no plan yet")
    await served.engine.apply(plan_of(stable))
    assert await served.get("/v2/health/ready") == (200, {"ready": True})


async def test_model_describes_itself(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/4"):
        status, body = await served.get(path)
        assert status == 200
        assert (body["name"], body["versions"]) == (MODEL, ["4"])
        assert body["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [1, 10]}]
        assert body["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [1, 10]}]
    assert await served.get(f"/v2/models/{MODEL}/ready") == (200, {"name": MODEL, "ready": True})
    assert (await served.get(f"/v2/models/{MODEL}/versions/5"))[0] == 404


@pytest.mark.parametrize("path", [f"/v2/models/{MODEL}/infer", f"/v2/models/{MODEL}/versions/4/infer"])
async def test_infer_answers_a_batch_with_its_version(served: Served, stable: SlotSpec, path: str) -> None:
    await served.engine.apply(plan_of(stable))
    request = json.loads(infer_body(one_hot(3), one_hot(8))) | {"id": "42", "outputs": [{"name": "scores"}]}
    status, body, headers = await served.post(path, json.dumps(request).encode())
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert (body["model_name"], body["model_version"], body["id"]) == (MODEL, "4", "42")
    assert body["parameters"]["release_id"] == STABLE
    [output] = body["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [2, 10])
    assert [max(range(10), key=lambda k: output["data"][row + k]) for row in (0, 10)] == [3, 8]


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("/v2/models/digits/infer", b"{", (400, "invalid_input")),
        ("/v2/models/digits/infer", infer_body([1.0] * 9), (400, "pipeline_failed")),
        ("/v2/models/digits/infer", infer_body([1.0] * 10, datatype="FP64"), (400, "pipeline_failed")),
        ("/v2/models/digits/infer", infer_body([1.0] * 10, datatype="FP99"), (400, "invalid_input")),
        ("/v2/models/nobody/infer", infer_body(one_hot(1)), (404, "not_found")),
        ("/v2/models/digits/versions/9/infer", infer_body(one_hot(1)), (404, "not_found")),
        ("/v2/models/withheld/infer", infer_body(one_hot(1)), (503, "no_previous: golden_mismatch")),
        ("/v2/models/digits/classify", picture(1), (415, "invalid_input")),
        ("/v3", b"", (404, "http")),
        ("/v2", b"", (405, "http")),
    ],
)
async def test_refusals_are_problems_that_say_why(
    served: Served, stable: SlotSpec, path: str, data: bytes, expected: tuple[int, str]
) -> None:
    withheld = Route(model=ModelName("withheld"), primary=None, unavailable_reason="no_previous: golden_mismatch")
    plan = plan_of(stable)
    await served.engine.apply(Plan(serial=1, slots=plan.slots, routes=(*plan.routes, withheld)))
    got, body, headers = await served.post(path, data, {"Content-Type": "text/plain"})
    assert (got, body["reason"]) == expected
    assert body["status"] == got
    assert headers["Content-Type"].startswith("application/problem+json")
    assert body["error"] == body["detail"] != ""
    assert ("Retry-After" in headers) == (got == 503)


async def test_binary_tensors_are_answered_as_json_tensors_are(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    _, wanted, _ = await served.post(f"/v2/models/{MODEL}/infer", infer_body(one_hot(1)))
    array = np.array([one_hot(1)], np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(array.shape)}
    described = {**tensor, "parameters": {"binary_data_size": array.nbytes}}
    text = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    _, data, got_headers = await served.post_raw(f"/v2/models/{MODEL}/infer", text + array.tobytes(), headers)
    length = int(got_headers["Inference-Header-Content-Length"])
    answer = json.loads(data[:length])
    got = np.frombuffer(data[length:], np.float32).reshape(answer["outputs"][0]["shape"])
    expected = wanted["outputs"][0]
    np.testing.assert_allclose(got.ravel(), expected["data"], rtol=1e-6)
    assert answer["outputs"][0]["shape"] == expected["shape"]


async def test_body_over_the_limit_is_refused(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    status, body, _ = await served.post(f"/v2/models/{MODEL}/infer", io.BytesIO(bytes(MAX_BODY_BYTES + 1)))
    assert (status, body["title"]) == (413, "Request Entity Too Large")


@pytest.mark.parametrize(("kind", "mime"), [("PNG", "image/png"), ("PNG", "application/octet-stream")])
async def test_image_becomes_labels(served: Served, tmp_path: Path, kind: str, mime: str) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    status, body, _ = await served.post(f"/v2/models/{MODEL}/classify", picture(6, kind), {"Content-Type": mime})
    assert status == 200
    assert {key: body[key] for key in ("model_name", "model_version", "release_id")} == {
        "model_name": MODEL,
        "model_version": "1",
        "release_id": STABLE,
    }
    assert [label["label"] for label in body["labels"]] == ["g", "a"]
    assert body["labels"][0]["score"] > 0.9


async def test_broken_image_is_the_callers_error(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    headers = {"Content-Type": "image/png"}
    status, body, _ = await served.post(f"/v2/models/{MODEL}/classify", picture(6)[:40], headers)
    assert (status, body["reason"]) == (400, "pipeline_failed")


async def test_infer_of_a_release_with_a_pipeline_takes_what_the_pipeline_takes(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    _, described = await served.get(f"/v2/models/{MODEL}")
    assert described["inputs"] == [{"name": "input", "datatype": "UINT8", "shape": [-1, -1, -1, 1]}]
    pixels = [[[[255 * (place == 2)] for place in range(10)]]]
    tensor = {"name": "input", "shape": [1, 1, 10, 1], "datatype": "UINT8", "data": pixels}
    status, body, _ = await served.post(f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode())
    assert status == 200
    assert [output["name"] for output in body["outputs"]] == ["scores", "labels"]
    assert body["outputs"][1]["data"] == ["c"]


async def test_swap_back_and_forth_under_load_fails_no_request_and_mixes_no_answer(
    served: Served, stable: SlotSpec, tmp_path: Path
) -> None:
    other = make_slot(tmp_path, models.one_hot_classifier(shift=1), release=CANDIDATE, version=5)
    plans = [plan_of(stable), plan_of(other), plan_of(stable, other, candidate=CANDIDATE)]
    await served.engine.apply(plans[0])
    is_over = False
    answers: list[tuple[int, str, int]] = []

    async def call() -> None:
        while not is_over:
            status, body, _ = await served.post(f"/v2/models/{MODEL}/infer", infer_body(one_hot(3)))
            data = body["outputs"][0]["data"]
            answers.append((status, body["model_version"], data.index(max(data))))

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(call())
        for serial in range(60):
            await served.engine.apply(plans[serial % 3])
            await wait_until_async(partial(_has_more_than, answers, len(answers) + 10))
        is_over = True
    assert len(answers) >= 600
    # Each answer is right for the version that it names.
    assert set(answers) == {(200, "4", 3), (200, "5", 4)}


def _has_more_than(answers: list[tuple[int, str, int]], count: int) -> bool:
    return len(answers) > count


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_attack_body_that_is_not_encoded_as_it_says_is_the_callers_error_and_fills_no_log(
    served: Served, stable: SlotSpec, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    await served.engine.apply(plan_of(stable))
    caplog.set_level("INFO")
    for _ in range(2):
        status, body, headers = await served.post(f"/v2/models/{MODEL}/infer", b"zzzz", {"Content-Encoding": encoding})
        assert (status, body["reason"]) == (400, "http")
        assert "gzip or deflate" in body["detail"]
        assert headers["Content-Type"].startswith("application/problem+json")
    assert [each.getMessage() for each in caplog.records if each.name.startswith("aiohttp")] == []


async def test_attack_what_is_no_http_is_answered_with_a_problem_and_fills_no_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(*served.url.removeprefix("http://").split(":"))
    writer.write(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.0 400")
    assert b"application/problem+json" in answer
    assert [each for each in caplog.records if each.name.startswith("aiohttp")] == []
