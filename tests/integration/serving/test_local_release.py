"""`litefleet-agent serve RELEASE_FOLDER`: one release with a pipeline and another model in it, by every protocol."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from agent.serving.protocols import open_inference_pb2 as wire
from tests.integration.serving.test_pipelines import composed, spec
from tests.support.inference_api import picture
from tests.support.ports import LOOPBACK
from tests.support.programs import stop_process
from tests.support.serving import ROOT
from tests.support.unix_http import UnixConnection
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "local"
TWO_OPINIONS = spec(
    {"type": "decode_image", "colour": "L"},
    {"type": "resize_image", "height": 1, "width": 10},
    {"type": "normalise", "scale": 1 / 255},
    {"type": "tensor_map", "id": "row", "reshape": [10]},
    {"type": "run_model", "id": "small"},
    {"type": "run_model", "id": "large", "model": "large", "takes": ["row"]},
    {"type": "top_labels", "id": "one", "takes": ["small"], "count": 1},
    {"type": "top_labels", "id": "other", "takes": ["large"], "count": 1},
    {"type": "fan_out", "takes": ["one", "other"]},
)
"""The brightest pixel by name, and that of its right neighbour: so that both models are seen to answer."""
ITEM = picture(3)
TEXT = base64.b64encode(ITEM).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where it is asked."""

    http: int
    grpc: int
    unix: Path


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("local")
    slot = composed(folder, TWO_OPINIONS)
    unix, said = folder / "infer.sock", folder / "said.txt"
    ports = ["--http-port", "0", "--grpc-port", "0", "--unix-socket", str(unix)]
    command = [sys.executable, "-m", "agent.cli", "serve", slot.folder, "--name", NAME, *ports]
    with said.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or "over gRPC" in said.read_text(), what="it serves or ends")
        text = said.read_text()
        found = [re.search(pattern, text) for pattern in (r"http://[^:]+:(\d+)/", r"gRPC on [^:]+:(\d+)")]
        ports_found = [int(each[1]) for each in found if each]
        assert len(ports_found) == 2, text
        yield Doors(http=ports_found[0], grpc=ports_found[1], unix=unix)
    finally:
        stop_process(process)


def ask(connection: http.client.HTTPConnection, path: str, body: bytes | None = None, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, named)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said
        return said


def over_http(doors: Doors, path: str, body: bytes | None = None, **headers: str) -> bytes:
    return ask(http.client.HTTPConnection(LOOPBACK, doors.http, timeout=20), path, body, **headers)


def check(said: dict[str, Any]) -> None:
    assert {name: each[0]["label"] for name, each in said.items()} == {"one": "d", "other": "e"}


def tensor(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"name": "image", "shape": [1], "datatype": "BYTES", **more}


def test_release_answers_classify_by_tcp_and_unix_socket(doors: Doors) -> None:
    path = f"/v2/models/{NAME}/classify"
    for connection in (http.client.HTTPConnection(LOOPBACK, doors.http, timeout=20), UnixConnection(doors.unix)):
        check(json.loads(ask(connection, path, ITEM, Content_Type="image/png"))["answers"]["fan_out"])


def test_release_answers_the_open_inference_protocol_as_json_and_as_bytes(doors: Doors) -> None:
    path = f"/v2/models/{NAME}/infer"
    as_text = json.dumps({"inputs": [tensor(data=[TEXT], parameters={"content_type": "base64"})]}).encode()
    said = json.loads(over_http(doors, path, as_text, Content_Type="application/json"))
    check(json.loads(said["outputs"][0]["data"][0]))
    raw = struct.pack("<I", len(ITEM)) + ITEM
    head = json.dumps({"inputs": [tensor(parameters={"binary_data_size": len(raw)})]}).encode()
    said = json.loads(over_http(doors, path, head + raw, Inference_Header_Content_Length=str(len(head))))
    check(json.loads(said["outputs"][0]["data"][0]))


def test_release_answers_tensorflow_servings_clients(doors: Doors) -> None:
    rows = json.dumps({"instances": [{"b64": TEXT}]}).encode()
    check(json.loads(over_http(doors, f"/v1/models/{NAME}:predict", rows))["predictions"][0])
    status = json.loads(over_http(doors, f"/v1/models/{NAME}"))["model_version_status"]
    assert status[0]["state"] == "AVAILABLE"
    assert json.loads(over_http(doors, f"/v1/models/{NAME}/metadata"))["model_spec"]["name"] == NAME


def test_release_answers_the_model_asset_exchanges_clients(doors: Doors) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + ITEM + b"\r\n--x--\r\n"
    said = json.loads(over_http(doors, "/model/predict", form, Content_Type="multipart/form-data; boundary=x"))
    assert said["status"] == "ok"
    check(said["predictions"][0])
    assert json.loads(over_http(doors, "/model/metadata"))["id"] == NAME
    assert json.loads(over_http(doors, "/model/labels"))["count"] == 10


def test_release_answers_over_grpc(doors: Doors) -> None:
    item: Any = tensor(contents={"bytes_contents": [ITEM]})
    asked = wire.ModelInferRequest(model_name=NAME, inputs=[item])
    with grpc.insecure_channel(f"{LOOPBACK}:{doors.grpc}") as channel:
        call: Callable[..., bytes] = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        said = wire.ModelInferResponse.FromString(call(asked.SerializeToString(), timeout=20, wait_for_ready=True))
    (output,) = said.outputs
    text = output.contents.bytes_contents[0] if output.contents.bytes_contents else said.raw_output_contents[0][4:]
    check(json.loads(text))


def test_release_is_described_counted_and_shown_to_people(doors: Doors) -> None:
    over_http(doors, f"/v2/models/{NAME}/classify", ITEM, Content_Type="image/png")
    metrics = over_http(doors, "/metrics").decode()
    assert re.search(rf'litefleet_\w+{{[^}}]*model="{NAME}"[^}}]*}} [1-9]', metrics)
    assert NAME in over_http(doors, "/").decode()
    assert "<html" in over_http(doors, "/try").decode()
    assert json.loads(over_http(doors, "/openapi.json"))["openapi"].startswith("3.1")
    index = json.loads(over_http(doors, "/v2/repository/index", b"{}"))
    assert [(each["name"], each["state"]) for each in index] == [(NAME, "READY")]
