"""Open Inference Protocol v2 over HTTP, with binary tensors, model repository and statistics; and images to labels.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; triton-inference-server/server,
docs/protocol/extension_{binary_data,model_repository,statistics}.md
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from aiohttp import web

from agent.serving.callers.access import APPLICATION, STRANGER
from agent.serving.errors import ModelUnavailableError
from agent.serving.exchange import Ask, CallProtocol
from agent.serving.protocols import classification, standing, tensors
from agent.serving.protocols.api import Answer, caller_in, caller_of, json_answer, problem, read_body, send
from agent.serving.protocols.binary_tensors import LENGTH_HEADER
from agent.serving.protocols.oip_messages import Done, IndexBody, Live, LoadBody, ModelReady, Ready
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.ids import ModelName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.serving.engine import Engine
    from agent.serving.exchange import LiveRoute, Reply
    from agent.serving.protocols.standing import Loading
    from agent.serving.requests import Request

Body = TypeVar("Body", IndexBody, LoadBody)

TIMING_HEADER: Final = "Server-Timing"
"""Of the answer to an image: what a browser's developer tools, and the page `/try`, show of the time it took."""


def routes(engine: Engine, *, unverified: str = "", loading: Loading | None = None) -> list[web.RouteDef]:
    """Return the endpoints over `engine`; `unverified` is said with every model and answer.

    Without `loading` no caller may load or unload a model.
    """
    return _Protocol(engine, unverified=unverified, loading=loading or standing.FleetDecides()).routes()


class Inference:
    """Tensors in, tensors out: what stands behind the endpoint and the fast lane alike."""

    def __init__(self, engine: Engine, *, unverified: str = "") -> None:
        """`unverified` is said with every answer."""
        self._engine, self._unverified = engine, unverified

    async def answer(
        self, data: bytes, headers: Mapping[str, str], *, model: ModelName, version: str | None, application: str
    ) -> tuple[Reply, Answer]:
        """Answer a body that has just been read whole; `application` was let in. Raises as `Engine.answer` does."""
        received_s = time.monotonic()
        body, parsed = tensors.read_body(data, headers.get(LENGTH_HEADER))
        caller = caller_in(headers, CallProtocol.OIP, application=application, received_s=received_s)
        ask = Ask(model=model, version=version, request=parsed, received_s=received_s, caller=caller)
        reply = await self._engine.answer(ask)
        outputs, blobs = tensors.write_outputs(reply.outcome.outputs, body)
        parameters = standing.reply_parameters(reply, unverified=self._unverified)
        text = msgspec.json.encode({**_who(reply), "id": body.id, "parameters": parameters, "outputs": outputs})
        return reply, _binary(text, blobs) if blobs else Answer(text)


class _Protocol:
    """The endpoints over one engine."""

    def __init__(self, engine: Engine, *, unverified: str, loading: Loading) -> None:
        self._engine, self._unverified, self._loading = engine, unverified, loading
        self._inference = Inference(engine, unverified=unverified)

    def routes(self) -> list[web.RouteDef]:
        """Return the table of endpoints."""
        # The first are found first; aiohttp tries one after the other.
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        table = [web.post(f"{model}/infer", self._infer) for model in models]
        table += [web.post(f"{model}/classify", self._classify) for model in models]
        table += [
            web.get("/v2", self._server),
            web.get("/v2/health/live", self._live),
            web.get("/v2/health/ready", self._ready),
            web.get("/v2/models/stats", self._stats),
            web.post("/v2/repository/index", self._index),
            web.post("/v2/repository/models/{model}/load", self._load),
            web.post("/v2/repository/models/{model}/unload", self._unload),
        ]
        for model in models:
            table += [
                web.get(model, self._model),
                web.get(f"{model}/ready", self._model_ready),
                web.get(f"{model}/stats", self._stats),
            ]
        return table

    async def _server(self, _request: web.Request) -> web.Response:
        return json_answer(standing.server())

    async def _live(self, _request: web.Request) -> web.Response:
        return json_answer(Live(live=True))

    async def _ready(self, request: web.Request) -> web.Response:
        """Ready means that a plan is in force, and every model of it has a release that answers."""
        try:
            standing.check_ready(self._engine)
        except ModelUnavailableError:
            if STRANGER in request:
                raise ModelUnavailableError(model="*", why="not ready") from None
            raise
        return json_answer(Ready(ready=True))

    async def _model(self, request: web.Request) -> web.Response:
        version = request.match_info.get("version")
        return json_answer(standing.model(self._route(request), version, unverified=self._unverified))

    async def _model_ready(self, request: web.Request) -> web.Response:
        route = self._route(request)
        route.pick(request.match_info.get("version"))
        return json_answer(ModelReady(name=route.model, ready=True))

    async def _stats(self, request: web.Request) -> web.Response:
        asked = request.match_info
        name = ModelName(asked["model"]) if "model" in asked else None
        return json_answer(standing.statistics(self._engine, name=name, version=asked.get("version")))

    async def _index(self, request: web.Request) -> web.Response:
        body = _decode(await read_body(request), IndexBody, remedy='send {"ready": true} or nothing')
        return json_answer(
            standing.index(self._engine, ready_only=body.ready, application=request.get(APPLICATION, ""))
        )

    async def _load(self, request: web.Request) -> web.Response:
        standing.check_parameters(_decode(await read_body(request), LoadBody, remedy="send nothing").parameters)
        await self._loading.load(ModelName(request.match_info["model"]))
        return json_answer(Done())

    async def _unload(self, request: web.Request) -> web.Response:
        standing.check_parameters(_decode(await read_body(request), LoadBody, remedy="send nothing").parameters)
        await self._loading.unload(ModelName(request.match_info["model"]))
        return json_answer(Done())

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        self._route(request)  # an unknown model is told before its tensors are judged
        data, asked = await read_body(request), request.match_info
        reply, answer = await self._inference.answer(
            data,
            request.headers,
            model=ModelName(asked["model"]),
            version=asked.get("version"),
            application=request.get(APPLICATION, ""),
        )
        return await send(self._engine, request, reply, answer.response())

    async def _classify(self, request: web.Request) -> web.StreamResponse:
        kind = request.content_type
        if kind not in classification.BODY_TYPES and kind != classification.JSON_KIND:
            why = f"classify takes images and sounds, not {kind}: send Content-Type image/jpeg, image/png or audio/wav"
            return problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "invalid_input", why)
        self._route(request)
        data = await read_body(request)
        received_s = time.monotonic()
        parsed, is_list = classification.read_items(data, kind, request.headers.get("Content-Type", ""))
        reply = await self._answer(request, parsed, received_s)
        answer = classification.told(reply, is_list=is_list)
        response = json_answer(answer)
        response.headers[TIMING_HEADER] = _server_timing(reply)
        return await send(self._engine, request, reply, response)

    async def _answer(self, request: web.Request, parsed: Request, received_s: float) -> Reply:
        ask = Ask(
            model=ModelName(request.match_info["model"]),
            version=request.match_info.get("version"),
            request=parsed,
            received_s=received_s,
            caller=caller_of(request, CallProtocol.OIP, received_s=received_s),
        )
        return await self._engine.answer(ask)

    def _route(self, request: web.Request) -> LiveRoute:
        return self._engine.route(ModelName(request.match_info["model"]))


def _decode(data: bytes, kind: type[Body], *, remedy: str) -> Body:
    """Return a body of which every member has a default, so that none at all will do. Raises InvalidInputError."""
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except MALFORMED as exc:
        raise InvalidInputError(field="body", problem=str(exc), remedy=remedy) from exc


def _binary(text: bytes, blobs: list[bytes]) -> Answer:
    return Answer(b"".join((text, *blobs)), kind="application/octet-stream", headers={LENGTH_HEADER: str(len(text))})


def _who(reply: Reply) -> dict[str, object]:
    return {"model_name": reply.ask.model, "model_version": str(reply.instance.slot.version_number)}


def _server_timing(reply: Reply) -> str:
    """Return what the time of a request went to. Source: W3C Server Timing."""
    received_s, moments = reply.ask.received_s, reply.outcome.moments
    spans = (
        ("queue", moments.began_s - received_s),
        ("prepare", moments.invoked_s - moments.began_s),
        ("model", moments.ended_s - moments.invoked_s),
        ("total", time.monotonic() - received_s),
    )
    return ", ".join(f"{name};dur={span_s * 1000:.3f}" for name, span_s in spans)
