"""Open Inference Protocol v2 over HTTP, with binary tensors, and images to labels.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

import time
from http import HTTPStatus
from importlib import metadata
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from agent.serving import tensors
from agent.serving.api import json_answer, problem, read_body, send
from agent.serving.binary_tensors import LENGTH_HEADER
from agent.serving.errors import ModelUnavailableError
from agent.serving.exchange import Ask
from agent.serving.requests import ClassifyRequest
from shared.ids import ModelName

if TYPE_CHECKING:
    from agent.serving.engine import Engine
    from agent.serving.exchange import LiveRoute, Reply
    from agent.serving.instance import Instance
    from agent.serving.requests import Request

_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "application/octet-stream"})


def routes(engine: Engine, *, unverified: str = "") -> list[web.RouteDef]:
    """Return the endpoints over `engine`; `unverified` is said with every model and answer."""
    return _Protocol(engine, unverified=unverified).routes()


class _Protocol:
    """The endpoints over one engine."""

    def __init__(self, engine: Engine, *, unverified: str) -> None:
        self._engine, self._unverified = engine, unverified

    def routes(self) -> list[web.RouteDef]:
        """Return the table of endpoints."""
        table = [
            web.get("/v2", self._server),
            web.get("/v2/health/live", self._live),
            web.get("/v2/health/ready", self._ready),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            table += [
                web.get(model, self._model),
                web.get(f"{model}/ready", self._model_ready),
                web.post(f"{model}/infer", self._infer),
                web.post(f"{model}/classify", self._classify),
            ]
        return table

    async def _server(self, _request: web.Request) -> web.Response:
        return json_answer(
            {"name": "litefleet", "version": metadata.version("litefleet"), "extensions": ["binary_tensor_data"]}
        )

    async def _live(self, _request: web.Request) -> web.Response:
        return json_answer({"live": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        """Ready means that a plan is in force, and every model of it has a release that answers."""
        if self._engine.serial < 0:
            raise ModelUnavailableError(model="*", why="starting: no plan yet")
        for route in self._engine.routes.values():
            route.pick(None)
        return json_answer({"ready": True})

    async def _model(self, request: web.Request) -> web.Response:
        route, version = self._route(request), request.match_info.get("version")
        instance = route.pick(version)
        versions = [str(each.slot.version_number) for each in route.answering()]
        described: dict[str, object] = {
            "name": route.model,
            "versions": versions,
            "platform": "tflite",
            "inputs": [tensors.describe(spec) for spec in instance.inputs],
            "outputs": [tensors.describe(spec) for spec in instance.outputs],
            "parameters": self._parameters(instance),
        }
        return json_answer(described)

    async def _model_ready(self, request: web.Request) -> web.Response:
        route = self._route(request)
        route.pick(request.match_info.get("version"))
        return json_answer({"name": route.model, "ready": True})

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        self._route(request)  # an unknown model is told before its tensors are judged
        data = await read_body(request)
        received_s = time.monotonic()
        body, parsed = tensors.read_body(data, request.headers.get(LENGTH_HEADER))
        reply = await self._answer(request, parsed, received_s)
        outputs, blobs = tensors.write_outputs(reply.outcome.outputs, body)
        answer = {**_who(reply), "id": body.id, "parameters": self._parameters(reply.instance), "outputs": outputs}
        return await send(self._engine, request, reply, _binary(answer, blobs) if blobs else json_answer(answer))

    async def _classify(self, request: web.Request) -> web.StreamResponse:
        if request.content_type not in _IMAGE_TYPES:
            why = f"classify takes one image, not {request.content_type}: send Content-Type image/jpeg or image/png"
            return problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "invalid_input", why)
        self._route(request)
        data = await read_body(request)
        received_s = time.monotonic()
        reply = await self._answer(request, ClassifyRequest(encoded=data), received_s)
        labels = [{"label": each.label, "score": each.score} for each in reply.outcome.labels]
        answer: dict[str, object] = {**_who(reply), "release_id": reply.instance.slot.release_id, "labels": labels}
        if not labels:
            # The pipeline names no labels: the bare scores say at least as much.
            answer["scores"] = reply.outcome.outputs[0].array[0].tolist()
        return await send(self._engine, request, reply, json_answer(answer))

    async def _answer(self, request: web.Request, parsed: Request, received_s: float) -> Reply:
        ask = Ask(
            model=ModelName(request.match_info["model"]),
            version=request.match_info.get("version"),
            request=parsed,
            received_s=received_s,
        )
        return await self._engine.answer(ask)

    def _route(self, request: web.Request) -> LiveRoute:
        return self._engine.route(ModelName(request.match_info["model"]))

    def _parameters(self, instance: Instance) -> dict[str, object]:
        parameters: dict[str, object] = {"release_id": instance.slot.release_id}
        if self._unverified:
            parameters["unverified"] = self._unverified
        return parameters


def _binary(value: dict[str, object], blobs: list[bytes]) -> web.Response:
    text = msgspec.json.encode(value)
    return web.Response(
        body=b"".join((text, *blobs)), content_type="application/octet-stream", headers={LENGTH_HEADER: str(len(text))}
    )


def _who(reply: Reply) -> dict[str, object]:
    return {"model_name": reply.ask.model, "model_version": str(reply.instance.slot.version_number)}
