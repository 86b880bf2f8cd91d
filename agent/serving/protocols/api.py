"""What every protocol of the inference API shares: one application, errors as answers, bodies within limits.

Errors are RFC 9457 problems; `error` in them is where clients of the Open Inference Protocol and of TensorFlow Serving
look.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from aiohttp import web

from agent.serving.callers.access import APPLICATION
from agent.serving.callers.connections import Bodies
from agent.serving.errors import (
    InferenceTimeoutError,
    KeyRefusedError,
    ModelUnavailableError,
    NotAllowedError,
    QueueFullError,
    QuotaSpentError,
)
from agent.serving.exchange import Caller
from shared.errors import (
    ConflictError,
    InvalidInputError,
    LitefleetError,
    ModelFailedError,
    NotFoundError,
    RetryableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from agent.serving.callers.access import Access
    from agent.serving.callers.in_flight import Traffic
    from agent.serving.engine import Engine
    from agent.serving.exchange import CallProtocol, Reply

    Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
"""A 40-megapixel JPEG is under 30 MB; tensors of that size as JSON would take seconds to parse."""

UNVERIFIED_HEADER: Final = "Litefleet-Unverified"
KEY_HEADER: Final = "Litefleet-Key"
"""What a request should be answered by the same variant for."""
VARIANT_HEADER: Final = "Litefleet-Variant"
"""Which variant answered, where a traffic rule is in force."""
REPLY_HEADER: Final = "Litefleet-Reply-Id"
"""What to name in `POST /v2/feedback`, where rewards are learned from."""
TIMEOUT_HEADER: Final = "Litefleet-Timeout-Ms"
"""After how many milliseconds the caller has no more use for an answer."""

NOT_ENCODED: Final = "the body is not encoded as its head says, or not as this server reads it: gzip or deflate"

_BODY_DEADLINE_S = 30.0
_BODIES: Final = web.AppKey("bodies", Bodies)
_REALM: Final = 'Bearer realm="litefleet"'
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"


class Answer(NamedTuple):
    """What goes back to a caller, by whichever way he came in. A tuple, since one is made for every request."""

    body: bytes
    kind: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = {}

    def response(self) -> web.Response:
        """Return it as aiohttp sends it."""
        return web.Response(body=self.body, status=self.status, content_type=self.kind, headers=self.headers)


def create_app(
    routes: Iterable[web.RouteDef], traffic: Traffic, access: Access, *, unverified: str = ""
) -> web.Application:
    """Return the application. `unverified` says, with every answer, why nothing vouches for what is served."""

    @web.middleware
    async def counted(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        with traffic.request(request.protocol):
            return await _as_problem(request, handler, access)

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        if "Origin" in request.headers:
            response.headers.update(access.cors_headers(request))
        if unverified:
            response.headers[UNVERIFIED_HEADER] = unverified
        if traffic.is_ending:
            response.force_close()
            response.headers["Connection"] = "close"

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[counted])
    app[_BODIES] = Bodies()
    app.add_routes(routes)
    app.on_response_prepare.append(mark)
    return app


async def send(engine: Engine, request: web.Request, reply: Reply, response: web.Response) -> web.StreamResponse:
    """Write an answer, then have it counted and compared: a shadow run starts when the caller has what it asked for."""
    ready_s = time.monotonic()
    response.headers.update(reply_headers(reply))
    try:
        await response.prepare(request)
        await response.write_eof()
    finally:
        engine.finish(reply, ready_s=ready_s)
    return response


def reply_headers(reply: Reply) -> dict[str, str]:
    """Return what the head of an answer says of who gave it."""
    if not reply.variant:
        return {}
    variant = {VARIANT_HEADER: reply.variant}
    return {**variant, REPLY_HEADER: reply.reply_id} if reply.reply_id else variant


async def _as_problem(request: web.Request, handler: Endpoint, access: Access) -> web.StreamResponse:
    try:
        said = access.enter(request)
        return await handler(request) if said is None else said
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        answer = problem(HTTPStatus(exc.status), "http", exc.text or exc.reason, headers=_allowed(exc))
        if request.content.exception() is not None:
            # Nobody knows where such a body ends: a caller that sent another request after it would lose that.
            answer.force_close()
        return answer
    except LitefleetError as exc:
        return refusal(exc).response()


def refusal(error: LitefleetError) -> Answer:
    """Return what a caller is told of an error."""
    status = status_of(error)
    return Answer(problem_body(status, reason_of(error), str(error)), PROBLEM, status, _how_to_go_on(error))


def reason_of(error: LitefleetError) -> str:
    """Return the word for programs."""
    why = error.why if isinstance(error, ModelUnavailableError) else ""
    return why or error.reason


def status_of(error: LitefleetError) -> HTTPStatus:
    """Return how HTTP names an error."""
    match error:
        case KeyRefusedError():
            return HTTPStatus.UNAUTHORIZED
        case NotFoundError():
            return HTTPStatus.NOT_FOUND
        case ConflictError():
            return HTTPStatus.CONFLICT
        case NotAllowedError():
            return HTTPStatus.FORBIDDEN
        case QueueFullError() | QuotaSpentError():
            return HTTPStatus.TOO_MANY_REQUESTS
        case InferenceTimeoutError() | RetryableError():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case ModelFailedError():
            return HTTPStatus.INTERNAL_SERVER_ERROR
        case _:
            return HTTPStatus.BAD_REQUEST


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """A sentence for people."""
    reason: str
    """A word for programs."""
    error: str
    """The detail again, where clients of the Open Inference Protocol and of TensorFlow Serving look."""


def problem(status: HTTPStatus, reason: str, detail: str, *, headers: dict[str, str] | None = None) -> web.Response:
    """Return a problem; `reason` is a word for programs, `detail` a sentence for people."""
    return Answer(problem_body(status, reason, detail), PROBLEM, status, headers or {}).response()


def problem_body(status: HTTPStatus, reason: str, detail: str) -> bytes:
    """Return a problem as JSON."""
    body = Problem(title=status.phrase, status=int(status), detail=detail, reason=reason, error=detail)
    return msgspec.json.encode(body)


def _how_to_go_on(error: LitefleetError) -> dict[str, str]:
    if isinstance(error, KeyRefusedError):
        # RFC 6750, section 3: whoever sent no key is not told of an error.
        return {"WWW-Authenticate": _REALM if error.is_missing else f'{_REALM}, error="invalid_token"'}
    return {"Retry-After": str(math.ceil(error.retry_after_s))} if isinstance(error, RetryableError) else {}


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def json_answer(value: object) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type=JSON)


def caller_of(request: web.Request, protocol: CallProtocol, *, received_s: float) -> Caller:
    """Return who sent an HTTP request, as its headers and the application's key say. Raises InvalidInputError."""
    return caller_in(request.headers, protocol, application=request.get(APPLICATION, ""), received_s=received_s)


def caller_in(headers: Mapping[str, str], protocol: CallProtocol, *, application: str, received_s: float) -> Caller:
    """Return who sent these headers, of which case means nothing. Raises InvalidInputError."""
    given = headers.get(TIMEOUT_HEADER)
    return Caller(
        protocol=protocol,
        application=application,
        key=headers.get(KEY_HEADER, ""),
        headers=headers,
        deadline_s=None if given is None else received_s + _timeout_s(given),
    )


def _timeout_s(given: str) -> float:
    with contextlib.suppress(ValueError):
        timeout_s = float(given) / 1000
        if 0 < timeout_s < math.inf:
            return timeout_s
    raise InvalidInputError(field=TIMEOUT_HEADER, problem=f"{given!r} is no time", remedy="milliseconds, more than 0")


async def read_body(request: web.Request) -> bytes:
    """Return the whole body.

    Raises:
        HTTPBadRequest: it is not encoded as its head says.
        HTTPRequestTimeout: the caller dawdles.
        HTTPRequestEntityTooLarge: at once, where the head says so.
        QueueFullError: too much is arriving already.
    """
    try:
        if request.content.is_eof():
            # It came with the head: a timer would cost more than it could tell.
            return await request.read()
        size_bytes = MAX_BODY_BYTES if request.content_length is None else request.content_length
        if size_bytes > MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY_BYTES, actual_size=size_bytes)
        with request.app[_BODIES].reading(size_bytes):
            async with asyncio.timeout(_BODY_DEADLINE_S):
                return await request.read()
    except web.RequestPayloadError as exc:
        raise web.HTTPBadRequest(text=NOT_ENCODED) from exc
    except TimeoutError as exc:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {_BODY_DEADLINE_S:g} s") from exc
