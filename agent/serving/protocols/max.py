"""The endpoints of the Model Asset Exchange's services (MAX): metadata, labels, and a file to predictions.

MAX served one model in a container, so that its paths name none: a device with several is told which by `?model=`.
Source: IBM/MAX-Framework and IBM/MAX-Object-Detector, their `api` folders
"""

from __future__ import annotations

import base64
import binascii
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from aiohttp import web

from agent.serving.callers.access import known_to
from agent.serving.errors import ModelUnavailableError
from agent.serving.exchange import Ask, CallProtocol
from agent.serving.protocols import classification, multipart, tensors
from agent.serving.protocols.api import caller_of, json_answer, read_body, send
from agent.serving.protocols.json_bounds import check_json
from agent.serving.requests import ClassifyRequest, InferRequest
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.ids import ModelName

if TYPE_CHECKING:
    from agent.serving.engine import Engine
    from agent.serving.exchange import LiveRoute, Reply
    from agent.serving.models.resident import Resident
    from agent.serving.requests import Request

_MOST = 5
"""Predictions for an image where the pipeline does not say how many."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is served."""

    id: str
    name: str
    description: str
    type: str
    source: str


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A class that the model knows."""

    id: str
    name: str


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """Every class that the model knows."""

    count: int
    labels: tuple[Label, ...]


class LabelPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A class that the image may be of; `probability` is the model's score."""

    label_id: str
    label: str
    probability: float


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """Of an image: `LabelPrediction`s, the best first. Of `input`: the outputs, item by item."""

    status: str
    predictions: list[object]


class FileBody(msgspec.Struct, kw_only=True):
    """JSON in place of a form: an encoded image as base64, or a batch of numbers."""

    image: str | msgspec.UnsetType = msgspec.UNSET
    input: list[object] | msgspec.UnsetType = msgspec.UNSET


def routes(engine: Engine) -> list[web.RouteDef]:
    """Return the endpoints over `engine`."""
    protocol = _Protocol(engine)
    return [
        web.get("/model/metadata", protocol.metadata),
        web.get("/model/labels", protocol.labels),
        web.post("/model/predict", protocol.predict),
    ]


class _Protocol:
    """The endpoints over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def metadata(self, request: web.Request) -> web.Response:
        """Say what is served."""
        route = self._route(request)
        instance = route.pick(None)
        slot = instance.slot
        described = Metadata(
            id=route.model,
            name=route.model,
            description=f"version {slot.version_number} of {route.model}",
            type="Image Classification" if instance.takes_images else "Tensors",
            source=slot.release_id,
        )
        return json_answer(described)

    async def labels(self, request: web.Request) -> web.Response:
        """Name every class; none where the pipeline names none."""
        names = self._route(request).pick(None).labels
        known = tuple(Label(id=str(number), name=name) for number, name in enumerate(names))
        return json_answer(Labels(count=len(known), labels=known))

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Answer for the file `image` of a form, or for JSON."""
        route = self._route(request)
        instance = route.pick(None)
        data = await read_body(request)
        received_s = time.monotonic()
        if request.content_type == multipart.FORM:
            image = multipart.read_field(data, request.headers["Content-Type"], "image")
            parsed: Request = ClassifyRequest(encoded=image)
        else:
            parsed = _from_json(data, instance)
        caller = caller_of(request, CallProtocol.MAX, received_s=received_s)
        reply = await self._engine.answer(
            Ask(model=route.model, version=None, request=parsed, received_s=received_s, caller=caller)
        )
        said = _classes(reply) if isinstance(parsed, ClassifyRequest) else _items(reply)
        return await send(self._engine, request, reply, json_answer(Predictions(status="ok", predictions=said)))

    def _route(self, request: web.Request) -> LiveRoute:
        asked, routes = request.query.get("model"), self._engine.routes
        if asked is not None:
            return self._engine.route(ModelName(asked))
        if len(routes) > 1:
            known = "one of " + ", ".join(known_to(request, self._engine))
            raise InvalidInputError(field="model", problem="this device serves several: add ?model=", remedy=known)
        for route in routes.values():
            return route
        raise ModelUnavailableError(model="*", why="no model is planned" if self._engine.serial >= 0 else "starting")


def _from_json(data: bytes, instance: Resident) -> Request:
    check_json(data)
    try:
        body = msgspec.json.decode(data, type=FileBody)
    except MALFORMED as exc:
        remedy = "send a form with the file `image`, or JSON with `image` (base64) or `input` (a batch)"
        raise InvalidInputError(field="body", problem=str(exc), remedy=remedy) from exc
    image, batch = body.image, body.input
    if isinstance(image, msgspec.UnsetType) == isinstance(batch, msgspec.UnsetType):
        raise InvalidInputError(field="body", problem="give image (base64) or input (a batch), one of the two")
    if isinstance(image, str):
        try:
            return ClassifyRequest(encoded=base64.b64decode(image, validate=True))
        except (binascii.Error, ValueError) as exc:
            raise InvalidInputError(field="image", problem=f"holds no base64: {exc}") from exc
    (first, *others) = instance.inputs
    if others or not batch:
        problem = f"the model takes {1 + len(others)} inputs: use /v2/models" if others else "holds no item"
        raise InvalidInputError(field="input", problem=problem)
    return InferRequest(inputs=(tensors.from_values(first.name, batch, first.dtype, field="input"),))


def _classes(reply: Reply) -> list[object]:
    if not reply.instance.is_line:
        said = classification.row(reply.outcome.items[0])
        return said if isinstance(said, list) else [said]
    names = reply.instance.labels
    if reply.outcome.labels:
        return [
            LabelPrediction(label_id=str(names.index(each.label)), label=each.label, probability=each.score)
            for each in reply.outcome.labels
        ]
    scores = reply.outcome.outputs[0].array[0]
    return [
        LabelPrediction(label_id=str(at), label=names[at] if names else str(at), probability=float(scores[at]))
        for at in np.argsort(-scores, kind="stable")[:_MOST].tolist()
    ]


def _items(reply: Reply) -> list[object]:
    said: list[object] = reply.outcome.outputs[0].array.tolist()
    return said
