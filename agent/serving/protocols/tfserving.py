"""TensorFlow Serving's REST API over the same engine, for callers that speak it already.

Row format (`instances`) and column format (`inputs`), `:classify` and `:regress`, versions and labels. A label never
names what is not loaded: `stable` is the release that was committed, `canary` the candidate once it may answer, and a
variant's name what answers for that. Where a pipeline starts from an image, an instance is `{"b64": "…"}` with the
encoded file.
Source: tensorflow/serving, docs/api_rest.md
"""

from __future__ import annotations

import base64
import binascii
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from aiohttp import web

from agent.serving.exchange import Ask, CallProtocol
from agent.serving.protocols import classification, tensors
from agent.serving.protocols.api import caller_of, json_answer, problem, read_body, send
from agent.serving.protocols.json_bounds import check_json
from agent.serving.requests import InferRequest, NamedTensor
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.ids import ModelName

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.serving.engine import Engine
    from agent.serving.exchange import LiveRoute, Reply
    from agent.serving.models.resident import Resident
    from agent.serving.requests import Request
    from shared.manifest import TensorSpec

    Tensor = NDArray[Any]
    Json = object

_SIGNATURE = "serving_default"
_DTYPES = {
    "float16": "DT_HALF",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "int8": "DT_INT8",
    "int16": "DT_INT16",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "uint8": "DT_UINT8",
    "uint16": "DT_UINT16",
    "uint32": "DT_UINT32",
    "uint64": "DT_UINT64",
    "bool": "DT_BOOL",
}
_TEXT = "DT_STRING"


class PredictBody(msgspec.Struct, kw_only=True):
    """`:predict` in row format (`instances`) or in column format (`inputs`)."""

    signature_name: str = _SIGNATURE
    instances: list[object] | msgspec.UnsetType = msgspec.UNSET
    inputs: object = msgspec.UNSET


class ExamplesBody(msgspec.Struct, kw_only=True):
    """`:classify` and `:regress`: each example names its features; those of `context` belong to every one."""

    signature_name: str = _SIGNATURE
    examples: list[dict[str, object]]
    context: dict[str, object] = {}


Body = TypeVar("Body", PredictBody, ExamplesBody)


def routes(engine: Engine) -> list[web.RouteDef]:
    """Return the endpoints over `engine`."""
    return _Protocol(engine).routes()


class _Protocol:
    """The endpoints over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[web.RouteDef]:
        """Return the table of endpoints."""
        table: list[web.RouteDef] = []
        # A colon belongs to the verb, never to a model's name.
        for model in (
            "/v1/models/{model:[^/:]+}",
            "/v1/models/{model:[^/:]+}/versions/{version:[^/:]+}",
            "/v1/models/{model:[^/:]+}/labels/{label:[^/:]+}",
        ):
            table += [
                web.get(model, self._status),
                web.get(f"{model}/metadata", self._metadata),
                web.post(f"{model}:predict", self._predict),
                web.post(f"{model}:classify", self._classify),
                web.post(f"{model}:regress", self._regress),
            ]
        return table

    async def _status(self, request: web.Request) -> web.Response:
        route = self._engine.route(ModelName(request.match_info["model"]))
        asked = "version" in request.match_info or "label" in request.match_info
        answering = (_pick(route, request),) if asked else route.answering()
        return json_answer({"model_version_status": [_available(each) for each in answering]})

    async def _metadata(self, request: web.Request) -> web.Response:
        route = self._engine.route(ModelName(request.match_info["model"]))
        instance = _pick(route, request)
        signature = {
            "inputs": {spec.name: _described(spec) for spec in instance.inputs},
            "outputs": {spec.name: _described(spec) for spec in instance.outputs},
            "method_name": "tensorflow/serving/predict",
        }
        version = str(instance.slot.version_number)
        return json_answer(
            {
                "model_spec": {"name": route.model, "signature_name": "", "version": version},
                "metadata": {"signature_def": {"signature_def": {_SIGNATURE: signature}}},
            }
        )

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        instance = _pick(self._engine.route(ModelName(request.match_info["model"])), request)
        body = _decode(await read_body(request), PredictBody)
        received_s = time.monotonic()
        _check_signature(body.signature_name)
        rows, columns = body.instances, body.inputs
        if isinstance(rows, msgspec.UnsetType) == (columns is msgspec.UNSET):
            raise InvalidInputError(field="body", problem="give instances (rows) or inputs (columns), one of the two")
        if isinstance(rows, msgspec.UnsetType):
            parsed: Request = InferRequest(inputs=_columns(columns, instance.inputs))
        else:
            encoded = [_encoded(row) for row in rows]
            if all(each is not None for each in encoded) and encoded:
                return await self._images(request, [each for each in encoded if each is not None], received_s)
            parsed = InferRequest(inputs=_rows(rows, instance.inputs))
        reply = await self._answer(request, parsed, received_s)
        values = {output.name: _values(output.array) for output in reply.outcome.outputs}
        if columns is not msgspec.UNSET:
            outputs = next(iter(values.values())) if len(values) == 1 else values
            return await send(self._engine, request, reply, json_answer({"outputs": outputs}))
        return await send(self._engine, request, reply, json_answer({"predictions": _by_row(values)}))

    async def _images(self, request: web.Request, images: list[bytes], received_s: float) -> web.StreamResponse:
        """Answer encoded images or sounds: all of them, or none."""
        asked = classification.listed(images, "instances", apart=False)
        reply = await self._answer(request, asked, received_s)
        predictions = [classification.row(each) for each in reply.outcome.items]
        return await send(self._engine, request, reply, json_answer({"predictions": predictions}))

    async def _classify(self, request: web.Request) -> web.StreamResponse:
        reply = await self._examples(request)
        scores, names = _scores(reply), _label_names(reply)
        results = [[[name, float(score)] for name, score in zip(names, row, strict=True)] for row in scores]
        return await send(self._engine, request, reply, json_answer({"results": results}))

    async def _regress(self, request: web.Request) -> web.StreamResponse:
        reply = await self._examples(request)
        scores = _scores(reply)
        if scores.shape[1] != 1:
            self._engine.finish(reply, ready_s=time.monotonic())
            why = f"the model gives {scores.shape[1]} values an example: it is no regression"
            return problem(HTTPStatus.BAD_REQUEST, "invalid_input", why)
        return await send(self._engine, request, reply, json_answer({"results": scores[:, 0].tolist()}))

    async def _examples(self, request: web.Request) -> Reply:
        instance = _pick(self._engine.route(ModelName(request.match_info["model"])), request)
        body = _decode(await read_body(request), ExamplesBody)
        received_s = time.monotonic()
        _check_signature(body.signature_name)
        rows: list[object] = [body.context | example for example in body.examples]
        return await self._answer(request, InferRequest(inputs=_rows(rows, instance.inputs)), received_s)

    async def _answer(self, request: web.Request, parsed: Request, received_s: float) -> Reply:
        model = ModelName(request.match_info["model"])
        version = request.match_info.get("version")
        if "label" in request.match_info:
            version = str(_pick(self._engine.route(model), request).slot.version_number)
        caller = caller_of(request, CallProtocol.TFSERVING, received_s=received_s)
        return await self._engine.answer(
            Ask(model=model, version=version, request=parsed, received_s=received_s, caller=caller)
        )


def _pick(route: LiveRoute, request: web.Request) -> Resident:
    """Return who is asked: by label, by version, or by default."""
    label = request.match_info.get("label")
    if label is None:
        return route.pick(request.match_info.get("version"))
    return route.labelled(label)


def _available(instance: Resident) -> dict[str, object]:
    status = {"error_code": "OK", "error_message": ""}
    return {"version": str(instance.slot.version_number), "state": "AVAILABLE", "status": status}


def _described(spec: TensorSpec) -> dict[str, object]:
    sizes = [{"size": str(size), "name": ""} for size in spec.shape]
    shape = {"dim": sizes, "unknown_rank": False}
    return {"dtype": _DTYPES.get(spec.dtype, _TEXT), "tensor_shape": shape, "name": spec.name}


def _decode(data: bytes, kind: type[Body]) -> Body:
    check_json(data)
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as exc:
        raise InvalidInputError(field="body", problem=str(exc), remedy="send the request as JSON") from exc


def _check_signature(name: str) -> None:
    if name not in {"", _SIGNATURE}:
        raise InvalidInputError(field="signature_name", problem=f"no signature {name!r}", remedy=_SIGNATURE)


def _encoded(row: object) -> bytes | None:
    """Return the bytes of `{"b64": "…"}`, or None for any other instance. Raises InvalidInputError."""
    if not isinstance(row, dict) or set(row) != {"b64"}:
        return None
    try:
        return base64.b64decode(row["b64"], validate=True)
    except (binascii.Error, TypeError, ValueError) as exc:
        raise InvalidInputError(field="instances", problem=f"b64 holds no base64: {exc}") from exc


def _rows(rows: list[object], wanted: tuple[TensorSpec, ...]) -> tuple[NamedTensor, ...]:
    """Return one tensor for each input out of a list of instances."""
    if not rows:
        raise InvalidInputError(field="instances", problem="there is none")
    if not any(isinstance(row, dict) for row in rows):
        if len(wanted) != 1:
            names = ", ".join(spec.name for spec in wanted)
            raise InvalidInputError(field="instances", problem=f"must name the {len(wanted)} inputs", remedy=names)
        return (tensors.from_values(wanted[0].name, rows, wanted[0].dtype, field="instances"),)
    columns: dict[str, list[object]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or (columns and number and set(row) != set(columns)):
            raise InvalidInputError(field=f"instances[{number}]", problem="names other inputs than the first instance")
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return _columns(columns, wanted)


def _columns(columns: object, wanted: tuple[TensorSpec, ...]) -> tuple[NamedTensor, ...]:
    if not isinstance(columns, dict):
        columns = {wanted[0].name: columns}
    if len(wanted) == 1 and len(columns) == 1:
        # With a single input any name will do: converters change names at will.
        columns = {wanted[0].name: next(iter(columns.values()))}
    missing = [spec.name for spec in wanted if spec.name not in columns]
    if missing or len(columns) != len(wanted):
        known = "the model takes " + ", ".join(spec.name for spec in wanted)
        raise InvalidInputError(field="inputs", problem=f"got {', '.join(sorted(columns)) or 'none'}", remedy=known)
    return tuple(
        tensors.from_values(spec.name, columns[spec.name], spec.dtype, field=f"inputs.{spec.name}") for spec in wanted
    )


def _values(array: Tensor) -> list[object]:
    values: list[object] = array.tolist()
    return values


def _by_row(values: dict[str, list[object]]) -> list[object]:
    if len(values) == 1:
        return next(iter(values.values()))
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _scores(reply: Reply) -> Tensor:
    """Return the answer as `(N, K)`."""
    array = reply.outcome.outputs[0].array
    return array.reshape(len(array), -1).astype(np.float64)


def _label_names(reply: Reply) -> tuple[str, ...]:
    count = _scores(reply).shape[1]
    return reply.instance.labels or tuple(str(number) for number in range(count))
