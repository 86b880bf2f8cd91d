"""The Open Inference Protocol over gRPC: tensors in both forms, errors as codes, and a port only where one is set."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from agent.core.plan import Plan, Route
from agent.serving.callers.access import Access
from agent.serving.callers.in_flight import Traffic
from agent.serving.protocols import endpoints, grpc_tensors
from agent.serving.protocols import open_inference_pb2 as wire
from agent.serving.protocols.oip_grpc import MAX_CALLS, SERVICE
from agent.serving.requests import NamedTensor
from shared.errors import InvalidInputError
from shared.ids import ModelName
from tests.support import models
from tests.support.inference_api import image_slot
from tests.support.ports import LOOPBACK, accepts_connections, free_port
from tests.support.programs import stop_process
from tests.support.serving import MODEL, ROOT, STABLE, Device, make_slot, one_hot, plan_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served

    Asked = wire.ModelInferRequest
    # Any of the generated messages.
    Message = Any

PIXELS = struct.pack("<10f", *one_hot(3))


def call(address: str, method: str, asked: Message) -> Message:
    """Ask once, on a connection of its own."""
    kind = getattr(wire, type(asked).__name__.replace("Request", "Response"))
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(asked).SerializeToString,
            response_deserializer=kind.FromString,
        )
        return ask(asked, timeout=20, wait_for_ready=True)


async def acall(served: Served, method: str, asked: Message) -> Message:
    """Ask once, without blocking the loop that is to answer."""
    kind = getattr(wire, type(asked).__name__.replace("Request", "Response"))
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(asked).SerializeToString,
            response_deserializer=kind.FromString,
        )
        return await ask(asked, timeout=20)


def raw(data: bytes = PIXELS, *, model: str = MODEL, datatype: str = "FP32", version: str = "") -> Asked:
    asked = wire.ModelInferRequest(model_name=model, model_version=version, id="7", raw_input_contents=[data])
    asked.inputs.add(name="input", datatype=datatype, shape=[1, 10])
    return asked


def typed(values: list[float], *, datatype: str = "FP32", shape: tuple[int, ...] = (1, 10)) -> Asked:
    asked = wire.ModelInferRequest(model_name=MODEL)
    asked.inputs.add(name="input", datatype=datatype, shape=shape).contents.fp32_contents.extend(values)
    return asked


def without_inputs() -> Asked:
    return wire.ModelInferRequest(model_name=MODEL)


def with_both() -> Asked:
    asked = raw()
    asked.inputs[0].contents.fp32_contents.extend(one_hot(3))
    return asked


def with_two_raws() -> Asked:
    asked = raw()
    asked.raw_input_contents.append(PIXELS)
    return asked


def with_unknown_output() -> Asked:
    asked = raw()
    asked.outputs.add(name="nothing")
    return asked


async def test_answer_comes_in_the_form_of_the_question(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    bytes_back = await acall(served, "ModelInfer", raw(version="4"))
    assert (bytes_back.model_name, bytes_back.model_version, bytes_back.id) == (MODEL, "4", "7")
    assert bytes_back.parameters["release_id"].string_param == STABLE
    numbers_back = await acall(served, "ModelInfer", typed(one_hot(3)))
    for answer in (bytes_back, numbers_back):
        assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
            ("scores", "FP32", [1, 10])
        ]
    assert not bytes_back.outputs[0].HasField("contents")
    assert not numbers_back.raw_output_contents
    scores = np.frombuffer(bytes_back.raw_output_contents[0], "<f4")
    assert scores.argmax() == 3
    np.testing.assert_array_equal(scores, np.array(numbers_back.outputs[0].contents.fp32_contents, np.float32))


async def test_labels_of_a_pipeline_are_texts_in_both_forms(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    asked = wire.ModelInferRequest(model_name=MODEL)
    pixels = [255 * (place == 2) for place in range(10)]
    asked.inputs.add(name="input", datatype="UINT8", shape=[1, 1, 10, 1]).contents.uint_contents.extend(pixels)
    asked.outputs.add(name="labels")
    answer = await acall(served, "ModelInfer", asked)
    assert list(answer.outputs[0].contents.bytes_contents) == [b"c"]
    asked.inputs[0].ClearField("contents")
    asked.raw_input_contents.append(bytes(pixels))
    assert list((await acall(served, "ModelInfer", asked)).raw_output_contents) == [b"\x01\x00\x00\x00c"]


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (raw(model="nobody"), grpc.StatusCode.NOT_FOUND, "nobody"),
        (raw(version="9"), grpc.StatusCode.NOT_FOUND, "digits/9"),
        (raw(model="withheld"), grpc.StatusCode.UNAVAILABLE, "golden_mismatch"),
        (raw(PIXELS[:-4]), grpc.StatusCode.INVALID_ARGUMENT, "40 bytes"),
        (raw(datatype="FP99"), grpc.StatusCode.INVALID_ARGUMENT, "FP99"),
        (raw(struct.pack("<10f", *[float("nan")] * 10)), grpc.StatusCode.INVALID_ARGUMENT, "NaN"),
        (typed([1.0] * 9), grpc.StatusCode.INVALID_ARGUMENT, "10 elements"),
        (typed([1.0] * 9, shape=(1, 9)), grpc.StatusCode.INVALID_ARGUMENT, "pipeline_failed"),
        (typed([1.0] * 10, datatype="FP16"), grpc.StatusCode.INVALID_ARGUMENT, "raw_input_contents"),
        (typed([1.0] * 10, datatype="INT8"), grpc.StatusCode.INVALID_ARGUMENT, "0"),
        (without_inputs(), grpc.StatusCode.INVALID_ARGUMENT, "there is none"),
        (with_both(), grpc.StatusCode.INVALID_ARGUMENT, "beside"),
        (with_two_raws(), grpc.StatusCode.INVALID_ARGUMENT, "2 entries"),
        (with_unknown_output(), grpc.StatusCode.INVALID_ARGUMENT, "scores"),
    ],
)
async def test_refusals_are_codes_that_say_why(
    served: Served, stable: SlotSpec, asked: Asked, code: grpc.StatusCode, said: str
) -> None:
    withheld = Route(model=ModelName("withheld"), primary=None, unavailable_reason="no_previous: golden_mismatch")
    plan = plan_of(stable)
    await served.engine.apply(Plan(serial=1, slots=plan.slots, routes=(*plan.routes, withheld)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await acall(served, "ModelInfer", asked)
    assert caught.value.code() is code
    assert said in (caught.value.details() or "")


async def test_server_is_live_before_it_is_ready(served: Served, stable: SlotSpec) -> None:
    assert (await acall(served, "ServerLive", wire.ServerLiveRequest())).live
    assert not (await acall(served, "ServerReady", wire.ServerReadyRequest())).ready
    assert not (await acall(served, "ModelReady", wire.ModelReadyRequest(name=MODEL))).ready
    await served.engine.apply(plan_of(stable))
    assert (await acall(served, "ServerReady", wire.ServerReadyRequest())).ready
    assert (await acall(served, "ModelReady", wire.ModelReadyRequest(name=MODEL, version="4"))).ready
    assert not (await acall(served, "ModelReady", wire.ModelReadyRequest(name=MODEL, version="5"))).ready


async def test_metadata_index_and_statistics_are_those_of_rest(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    await acall(served, "ModelInfer", raw())
    described = await acall(served, "ModelMetadata", wire.ModelMetadataRequest(name=MODEL))
    assert (described.name, list(described.versions), described.platform) == (MODEL, ["4"], "tflite")
    assert list(described.inputs[0].shape) == [1, 10]
    (entry,) = (await acall(served, "RepositoryIndex", wire.RepositoryIndexRequest())).models
    assert (entry.name, entry.version, entry.state) == (MODEL, "4", "READY")
    (counted,) = (await acall(served, "ModelStatistics", wire.ModelStatisticsRequest())).model_stats
    (over_rest,) = (await served.get("/v2/models/stats"))[1]["model_stats"]
    assert (counted.inference_count, counted.execution_count) == (1, 1)
    assert counted.inference_stats.success.ns == over_rest["inference_stats"]["success"]["ns"] > 0
    for verb in ("Load", "Unload"):
        asked = getattr(wire, f"RepositoryModel{verb}Request")(model_name=MODEL)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await acall(served, f"RepositoryModel{verb}", asked)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_port_in_use_is_told(served: Served) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInputError, match="grpc_port"):
            await endpoints.listen_grpc(served.engine, Traffic(), Access(served.engine), host=LOOPBACK, port=port)


def test_half_precision_is_answered_raw_since_no_field_holds_it() -> None:
    answer = wire.ModelInferResponse()
    outputs = (NamedTensor(name="scores", array=np.array([[1.5]], np.float16)),)
    grpc_tensors.write(outputs, typed([1.0]), answer)
    assert (answer.outputs[0].datatype, answer.raw_output_contents[0]) == ("FP16", b"\x00\x3e")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device(tmp_path / "state") as made:
        made.write_boot(plan_of(make_slot(made.releases, models.one_hot_classifier())))
        yield made


def test_device_with_a_grpc_port_answers_there_too(device: Device) -> None:
    port = free_port()
    device.config.write_text(f"{device.config.read_text()}grpc_port = {port}\n")
    device.start()
    device.wait_ready()
    assert call(f"{LOOPBACK}:{port}", "ModelInfer", raw()).model_name == MODEL


def test_device_whose_grpc_port_is_taken_answers_over_http(device: Device) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        device.config.write_text(f"{device.config.read_text()}grpc_port = {taken.getsockname()[1]}\n")
        device.start()
        device.wait_ready()
        assert device.infer().status == 200
        wait_until(lambda: "grpc_not_served" in device.log.read_text(), what="the log says so")


def test_device_without_a_grpc_port_loads_no_grpc(device: Device) -> None:
    device.start()
    device.wait_ready()
    with open(f"/proc/{device.serving_pid()}/maps", encoding="utf-8") as maps:  # noqa: PTH123 - a file of the kernel
        files = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    # By the file's own name: the folders above it may be called anything.
    assert not [file for file in files if PurePath(file).name.startswith("cygrpc")]


def test_local_file_is_served_over_grpc_and_may_be_unloaded(tmp_path: Path) -> None:
    path, http_port, port = tmp_path / "mine.tflite", free_port(), free_port()
    path.write_bytes(models.one_hot_classifier())
    command = [sys.executable, "-m", "agent.cli", "serve", str(path), "--name", MODEL]
    ports = ["--http-port", str(http_port), "--grpc-port", str(port)]
    process = subprocess.Popen([*command, *ports], cwd=ROOT, stderr=subprocess.DEVNULL)
    address = f"{LOOPBACK}:{port}"
    try:
        wait_until(lambda: accepts_connections(port), what="it serves")
        answer = call(address, "ModelInfer", raw())
        assert "no signature was checked" in answer.parameters["unverified"].string_param
        call(address, "RepositoryModelUnload", wire.RepositoryModelUnloadRequest(model_name=MODEL))
        assert not call(address, "ServerReady", wire.ServerReadyRequest()).ready
        call(address, "RepositoryModelLoad", wire.RepositoryModelLoadRequest(model_name=MODEL))
        assert call(address, "ServerReady", wire.ServerReadyRequest()).ready
        process.terminate()
        assert process.wait(20) == 0
    finally:
        stop_process(process)


async def test_more_calls_at_once_than_are_held_are_refused_and_the_next_ones_answered(
    served: Served, tmp_path: Path
) -> None:
    # A model that takes a while, asked by many at once.
    slot = make_slot(tmp_path, models.random_classifier(2000, 2000, seed=1))
    await served.engine.apply(plan_of(slot))
    tensor = wire.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 2000])
    asked = wire.ModelInferRequest(
        model_name=MODEL, inputs=[tensor], raw_input_contents=[np.zeros(2000, "<f4").tobytes()]
    )
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=wire.ModelInferRequest.SerializeToString,
            response_deserializer=wire.ModelInferResponse.FromString,
        )
        calls = [infer(asked, timeout=30) for _ in range(4 * MAX_CALLS)]
        codes = Counter([await call.code() for call in calls])
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert (await infer(asked, timeout=30)).model_name == MODEL
