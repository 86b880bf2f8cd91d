"""Other people's clients, unchanged: what they were written for is what they find here."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from agent.serving.protocols import open_inference_pb2
from tests.support.clients import run_client
from tests.support.inference_api import image_slot, picture
from tests.support.outside.wire_numbers import numbers
from tests.support.serving import MODEL, infer_body, one_hot, plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served

EXTENSIONS = ["binary_tensor_data", "model_repository", "statistics"]


async def test_triton_client_finds_a_triton(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    address = served.url.removeprefix("http://")
    seen = json.loads(await asyncio.to_thread(run_client, "triton_client", address, served.grpc, MODEL))
    for number, way in enumerate(("http_binary", "http_json", "grpc")):
        found: dict[str, Any] = seen[way]
        assert (found["live"], found["ready"], found["model_ready"], found["nobody_ready"]) == (True, True, True, False)
        assert (found["best"], found["id"]) == (3, "7")
        assert found["extensions"] == EXTENSIONS
        assert [each["name"] for each in found["metadata"]["inputs"]] == ["input"]
        assert [(each["name"], each["state"]) for each in found["index"]] == [(MODEL, "READY")]
        assert found["counted"] == number + 1
    assert "Desired" in seen["http_binary"]["refused"]
    assert "PERMISSION_DENIED" in seen["grpc"]["refused"]


async def test_triton_client_sends_encoded_images(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    address, images = served.url.removeprefix("http://"), [picture(3).hex(), picture(8, "JPEG").hex()]
    said = await asyncio.to_thread(run_client, "triton_images", address, served.grpc, MODEL, *images)
    assert json.loads(said) == {"http": ["d", "i"], "grpc": ["d", "i"]}


async def test_kserve_clients_find_a_kserve(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    seen = json.loads(await asyncio.to_thread(run_client, "kserve_client", served.url, served.grpc, MODEL))
    assert len(seen) == 4
    for found in seen.values():
        assert found == {"live": True, "ready": True, "model_ready": True, "best": 3, "id": "7"}


@pytest.mark.parametrize("place", ["", "/versions/4", "/labels/stable"])
async def test_tensorflow_serving_client_finds_a_tensorflow_serving(
    served: Served, stable: SlotSpec, place: str
) -> None:
    await served.engine.apply(plan_of(stable))
    url = f"{served.url}/v1/models/{MODEL}{place}:predict"
    answer = await asyncio.to_thread(requests.post, url, json={"instances": [one_hot(3)]}, timeout=20)
    (scores,) = answer.json()["predictions"]
    assert (answer.status_code, scores.index(max(scores))) == (200, 3)


@pytest.mark.parametrize("module", ["tritonclient.grpc.service_pb2", "kserve.protocol.grpc.grpc_predict_v2_pb2"])
def test_messages_have_the_numbers_of_those_that_clients_ship(module: str) -> None:
    theirs: dict[str, dict[str, list[int]]] = json.loads(run_client("wire_numbers", module))
    ours = numbers(open_inference_pb2.DESCRIPTOR.message_types_by_name)
    # Triton and KServe number loading differently (model_name is 2 and 1); KServe's client offers no call for it.
    shared = {name for name in ours.keys() & theirs.keys() if not ("kserve" in module and "RepositoryModel" in name)}
    assert {"inference.ModelInferRequest", "inference.ModelInferResponse.InferOutputTensor"} <= shared
    for message in shared:
        common = ours[message].keys() & theirs[message].keys()
        assert {name: ours[message][name] for name in common} == {name: theirs[message][name] for name in common}
        # Nor is a number of theirs used for something else here.
        meanings = {number: name for name, (number, _) in theirs[message].items()}
        assert all(meanings.get(number, name) == name for name, (number, _) in ours[message].items())


async def test_prometheus_reads_what_was_counted_in_both_formats(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    url = f"{served.url}/v2/models/{MODEL}/infer"
    for _ in range(3):
        answer = await asyncio.to_thread(requests.post, url, data=infer_body(one_hot(3)), timeout=20)
        assert answer.status_code == 200
    answer = await asyncio.to_thread(requests.post, url, data=infer_body([1.0]), timeout=20)
    assert answer.status_code == 400
    seen = json.loads(await asyncio.to_thread(run_client, "prometheus_scrape", f"{served.url}/metrics"))
    assert [each["kind"].partition(";")[0] for each in seen] == ["text/plain", "application/openmetrics-text"]
    for found in seen:
        values = {
            (name, labels.get("kind"), labels.get("class"), labels.get("le")): value
            for family in found["families"].values()
            for name, labels, value in family["samples"]
        }
        assert values["litefleet_requests_total", None, None, None] == 4
        assert values["litefleet_request_refusals_total", "pipeline_failed", None, None] == 1
        assert values["litefleet_latency_seconds_count", None, None, None] == 3
        assert values["litefleet_latency_seconds_bucket", None, None, "+Inf"] == 3
        assert values["litefleet_classes_total", None, "3", None] == 3
        assert found["families"]["litefleet_confidence"]["type"] == "histogram"
