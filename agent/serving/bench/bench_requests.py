"""The same question in the words of every protocol, as the bytes that go over the wire."""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
from dataclasses import dataclass
from enum import StrEnum
from importlib import util
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from agent.serving.protocols.binary_tensors import LENGTH_HEADER
from agent.serving.protocols.multipart import FORM
from agent.serving.protocols.tensors import datatype
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared.steps import DecodeAudio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agent.serving.models.lane import Lane
    from agent.serving.requests import Request
    from shared.manifest import TensorSpec
    from shared.pipeline import PipelineSpec

NAME: Final = "bench"
"""Of the model that is asked."""
HAS_GRPC: Final = all(util.find_spec(name) for name in ("grpc", "google", "google.protobuf"))

_JSON, _BYTES, _BOUNDARY = "application/json", "application/octet-stream", "litefleet-bench"
_PICTURE = (640, 480)


class Door(StrEnum):
    """By which a request comes in."""

    HTTP = "http"
    UNIX = "unix"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request, again and again."""

    name: str
    door: Door
    data: bytes
    """The whole of it: head and body, or gRPC's message."""


def example(pipeline: PipelineSpec, lane: Lane, *, item: bytes | None) -> Request:
    """Return what is asked: `item`, or one made up for a pipeline that starts from bytes, or a row of numbers."""
    if item is not None:
        return ClassifyRequest(encoded=item)
    if lane.takes_images:
        return ClassifyRequest(encoded=_picture())
    sound = next((step for step in pipeline.steps if isinstance(step, DecodeAudio)), None)
    if sound is not None:
        return ClassifyRequest(encoded=_sound(sound))
    rng = np.random.default_rng(1)
    return InferRequest(inputs=tuple(NamedTensor(name=spec.name, array=_row(spec, rng)) for spec in lane.inputs))


def questions(request: Request) -> list[Question]:
    """Return a request in the words of every protocol."""
    asked = _items(request.encoded) if isinstance(request, ClassifyRequest) else _numbers(request.inputs)
    return [Question(name="HTTP alone, no model", door=Door.HTTP, data=_get("/v2/health/live")), *asked]


def _row(spec: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    """Return floats of 0..1, whose digits JSON has to carry as it has in earnest; zeros where they may be an index."""
    shape, dtype = [max(size, 1) for size in spec.shape], np.dtype(spec.dtype)
    return rng.random(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)


def _items(encoded: bytes) -> list[Question]:
    """Of an encoded picture or sound."""
    text = base64.b64encode(encoded).decode()
    tensor: dict[str, Any] = {"name": "input", "shape": [1], "datatype": "BYTES"}
    as_text = {**tensor, "data": [text], "parameters": {"content_type": "base64"}}
    raw = struct.pack("<I", len(encoded)) + encoded
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="item"\r\n\r\n'.encode()
    form = head + encoded + f"\r\n--{_BOUNDARY}--\r\n".encode()
    classify = _post(f"/v2/models/{NAME}/classify", encoded, _BYTES)
    rows = json.dumps({"instances": [{"b64": text}]}).encode()
    return [
        Question(name="classify", door=Door.HTTP, data=classify),
        Question(name="OIP, JSON", door=Door.HTTP, data=_infer({"inputs": [as_text]})),
        Question(name="OIP, binary", door=Door.HTTP, data=_infer_binary([tensor], [raw])),
        Question(name="TensorFlow Serving", door=Door.HTTP, data=_post(f"/v1/models/{NAME}:predict", rows, _JSON)),
        Question(name="MAX", door=Door.HTTP, data=_post("/model/predict", form, f"{FORM}; boundary={_BOUNDARY}")),
        Question(name="classify, unix socket", door=Door.UNIX, data=classify),
        *_over_grpc([{"name": "input", "shape": [1], "datatype": "BYTES", "contents": {"bytes_contents": [encoded]}}]),
    ]


def _numbers(inputs: Sequence[NamedTensor]) -> list[Question]:
    """Of tensors."""
    described = [
        {"name": each.name, "shape": list(each.array.shape), "datatype": datatype(each.array.dtype.name)}
        for each in inputs
    ]
    values = [each.array.ravel().tolist() for each in inputs]
    blobs = [each.array.tobytes() for each in inputs]
    binary = _infer_binary(described, blobs)
    as_json = _infer({"inputs": [{**each, "data": data} for each, data in zip(described, values, strict=True)]})
    columns = {each.name: each.array.tolist() for each in inputs}
    first = inputs[0].array.tolist()
    rows = json.dumps({"instances": first} if len(inputs) == 1 else {"inputs": columns}).encode()
    found = [
        Question(name="OIP, JSON", door=Door.HTTP, data=as_json),
        Question(name="OIP, binary", door=Door.HTTP, data=binary),
        Question(name="TensorFlow Serving", door=Door.HTTP, data=_post(f"/v1/models/{NAME}:predict", rows, _JSON)),
    ]
    if len(inputs) == 1:
        body = json.dumps({"input": first}).encode()
        found.append(Question(name="MAX", door=Door.HTTP, data=_post("/model/predict", body, _JSON)))
    found.append(Question(name="OIP, binary, unix socket", door=Door.UNIX, data=binary))
    return [*found, *_over_grpc(described, blobs)]


def _over_grpc(described: Sequence[dict[str, Any]], blobs: Sequence[bytes] = ()) -> list[Question]:
    if not HAS_GRPC:
        return []
    from agent.serving.protocols import open_inference_pb2 as wire  # noqa: PLC0415 - only where gRPC is installed

    message = wire.ModelInferRequest(model_name=NAME, inputs=list(described), raw_input_contents=list(blobs))
    return [Question(name="OIP, gRPC", door=Door.GRPC, data=message.SerializeToString())]


def _infer(body: dict[str, Any]) -> bytes:
    return _post(f"/v2/models/{NAME}/infer", json.dumps(body).encode(), _JSON)


def _infer_binary(described: Sequence[dict[str, Any]], blobs: Sequence[bytes]) -> bytes:
    sized = [
        {**each, "parameters": {"binary_data_size": len(blob)}} for each, blob in zip(described, blobs, strict=True)
    ]
    head = json.dumps({"inputs": sized, "parameters": {"binary_data_output": True}}).encode()
    more = f"{LENGTH_HEADER}: {len(head)}\r\n"
    return _post(f"/v2/models/{NAME}/infer", head + b"".join(blobs), _BYTES, more)


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: device\r\n\r\n".encode()


def _post(path: str, body: bytes, kind: str, more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: device\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _picture() -> bytes:
    """Return a JPEG of 640 × 480, about as large as a camera's: a slope with noise, so that decoding costs its due."""
    width, height = _PICTURE
    slope = np.linspace(0, 200, width)[np.newaxis, :, np.newaxis]
    noise = np.random.default_rng(1).normal(0, 8, (height, width, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(slope + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def _sound(step: DecodeAudio) -> bytes:
    """Return a WAV of as many samples as the pipeline keeps, or of a second, of quiet noise."""
    count = step.samples or min(step.sample_rate_hz, int(step.max_seconds * step.sample_rate_hz))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(step.sample_rate_hz)
        file.writeframes(np.random.default_rng(1).normal(0, 1000, count).astype("<i2").tobytes())
    return out.getvalue()
