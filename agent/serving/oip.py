"""The inference API: Open Inference Protocol v2 in JSON, and images to labels. Errors are RFC 9457 problems.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

import asyncio
import math
import time
from http import HTTPStatus
from importlib import metadata
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from agent.serving import tensors
from agent.serving.binary_tensors import LENGTH_HEADER
from agent.serving.errors import InferenceTimeoutError, ModelUnavailableError, QueueFullError
from agent.serving.exchange import Ask
from agent.serving.requests import ClassifyRequest
from shared.errors import LitefleetError, ModelFailedError, NotFoundError, RetryableError
from shared.ids import ModelName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.serving.engine import Engine
    from agent.serving.exchange import LiveRoute, Reply
    from agent.serving.instance import Instance
    from agent.serving.requests import Request
    from agent.serving.traffic import Traffic

    Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
"""A 40-megapixel JPEG is under 30 MB; tensors of that size as JSON would take seconds to parse."""

UNVERIFIED_HEADER: Final = "Litefleet-Unverified"

_BODY_DEADLINE_S = 30.0
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "application/octet-stream"})
_JSON = "application/json"
_PROBLEM = "application/problem+json"


def create_app(engine: Engine, traffic: Traffic, *, unverified: str = "") -> web.Application:
    """Return the application. `unverified` says, with every answer, why nothing vouches for what is served."""

    @web.middleware
    async def counted(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        with traffic.request():
            return await _as_problem(request, handler)

    async def mark(_request: web.Request, response: web.StreamResponse) -> None:
        if unverified:
            response.headers[UNVERIFIED_HEADER] = unverified
        if traffic.is_ending:
            response.force_close()
            response.headers["Connection"] = "close"

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[counted])
    app.add_routes(_Protocol(engine, unverified=unverified).routes())
    app.on_response_prepare.append(mark)
    return app


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
        return _json(
            {"name": "litefleet", "version": metadata.version("litefleet"), "extensions": ["binary_tensor_data"]}
        )

    async def _live(self, _request: web.Request) -> web.Response:
        return _json({"live": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        """Ready means that a plan is in force, and every model of it has a release that answers."""
        if self._engine.serial < 0:
            raise ModelUnavailableError(model="*", why="starting: no plan yet")
        for route in self._engine.routes.values():
            route.pick(None)
        return _json({"ready": True})

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
        return _json(described)

    async def _model_ready(self, request: web.Request) -> web.Response:
        route = self._route(request)
        route.pick(request.match_info.get("version"))
        return _json({"name": route.model, "ready": True})

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        self._route(request)  # an unknown model is told before its tensors are judged
        data = await _body(request)
        received_s = time.monotonic()
        body, parsed = tensors.read_body(data, request.headers.get(LENGTH_HEADER))
        reply = await self._answer(request, parsed, received_s)
        outputs, blobs = tensors.write_outputs(reply.outcome.outputs, body)
        answer = {**_who(reply), "id": body.id, "parameters": self._parameters(reply.instance), "outputs": outputs}
        return await self._send(request, reply, _binary(answer, blobs) if blobs else _json(answer))

    async def _classify(self, request: web.Request) -> web.StreamResponse:
        if request.content_type not in _IMAGE_TYPES:
            problem = f"classify takes one image, not {request.content_type}: send Content-Type image/jpeg or image/png"
            return _problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "invalid_input", problem)
        self._route(request)
        data = await _body(request)
        received_s = time.monotonic()
        reply = await self._answer(request, ClassifyRequest(encoded=data), received_s)
        labels = [{"label": each.label, "score": each.score} for each in reply.outcome.labels]
        answer: dict[str, object] = {**_who(reply), "release_id": reply.instance.slot.release_id, "labels": labels}
        if not labels:
            # The pipeline names no labels: the bare scores say at least as much.
            answer["scores"] = reply.outcome.outputs[0].array[0].tolist()
        return await self._send(request, reply, _json(answer))

    async def _answer(self, request: web.Request, parsed: Request, received_s: float) -> Reply:
        ask = Ask(
            model=ModelName(request.match_info["model"]),
            version=request.match_info.get("version"),
            request=parsed,
            received_s=received_s,
        )
        return await self._engine.answer(ask)

    async def _send(self, request: web.Request, reply: Reply, response: web.Response) -> web.StreamResponse:
        ready_s = time.monotonic()
        try:
            # Written here, and not by returning it, so that a shadow run starts when the caller has its answer.
            await response.prepare(request)
            await response.write_eof()
        finally:
            self._engine.finish(reply, ready_s=ready_s)
        return response

    def _route(self, request: web.Request) -> LiveRoute:
        return self._engine.route(ModelName(request.match_info["model"]))

    def _parameters(self, instance: Instance) -> dict[str, object]:
        parameters: dict[str, object] = {"release_id": instance.slot.release_id}
        if self._unverified:
            parameters["unverified"] = self._unverified
        return parameters


async def _as_problem(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        return _problem(HTTPStatus(exc.status), "http", exc.text or exc.reason, headers=_allowed(exc))
    except LitefleetError as exc:
        why = exc.why if isinstance(exc, ModelUnavailableError) else ""
        return _problem(_status(exc), why or exc.reason, str(exc), headers=_retry_after(exc))


def _status(error: LitefleetError) -> HTTPStatus:
    match error:
        case NotFoundError():
            return HTTPStatus.NOT_FOUND
        case QueueFullError():
            return HTTPStatus.TOO_MANY_REQUESTS
        case InferenceTimeoutError() | RetryableError():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case ModelFailedError():
            return HTTPStatus.INTERNAL_SERVER_ERROR
        case _:
            return HTTPStatus.BAD_REQUEST


def _problem(status: HTTPStatus, reason: str, detail: str, *, headers: dict[str, str] | None = None) -> web.Response:
    # `error` is where clients of the Open Inference Protocol look.
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "reason": reason,
        "error": detail,
    }
    return web.Response(status=status, body=msgspec.json.encode(body), content_type=_PROBLEM, headers=headers)


def _retry_after(error: LitefleetError) -> dict[str, str]:
    return {"Retry-After": str(math.ceil(error.retry_after_s))} if isinstance(error, RetryableError) else {}


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def _json(value: dict[str, object]) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=_JSON)


def _binary(value: dict[str, object], blobs: list[bytes]) -> web.Response:
    text = msgspec.json.encode(value)
    return web.Response(
        body=b"".join((text, *blobs)), content_type="application/octet-stream", headers={LENGTH_HEADER: str(len(text))}
    )


def _who(reply: Reply) -> dict[str, object]:
    return {"model_name": reply.ask.model, "model_version": str(reply.instance.slot.version_number)}


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_DEADLINE_S):
            return await request.read()
    except TimeoutError as exc:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {_BODY_DEADLINE_S:g} s") from exc
