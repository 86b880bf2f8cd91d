"""One row per operation of the API; routing, validation, authentication and the OpenAPI document all read it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from controller.http.errors import InvalidRequestError, ProblemItem, invalid_body, invalid_query
from shared.errors import InvalidInputError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

F = TypeVar("F")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

MAX_BODY_BYTES = 1024 * 1024
"""Largest JSON body; files come in pieces through /uploads."""
LARGEST = 2**31 - 1
"""Largest whole number that every column holds."""
_JSON = "application/json"
# PostgreSQL stores no NUL in a text, and refuses even to look for one.
_ESCAPED_NUL = b"\\u0000"
_NO_NUL = "holds a NUL character"
# A megabyte over a slow mobile link; who takes longer only holds a connection open.
_BODY_S = 60.0


class Body(BaseModel):
    """What every body and query is: frozen, and without members that nobody declared."""

    # JSON has no infinity, but the parser takes one; no time or margin of ours could be it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PageQuery(Body):
    """Which part of a list: up to `limit` items that follow the cursor `after`."""

    limit: int = Field(default=100, ge=1, le=500)
    after: str | None = None


class Page(BaseModel, Generic[T]):
    """A part of a list, and the cursor of the next part if there is one."""

    items: list[T]
    next: str | None = None


def page_of(found: Sequence[F], limit: int, view: Callable[[F], T], cursor: Callable[[F], str]) -> Page[T]:
    """Show up to `limit` of what was found; one more than that says that there is a next page."""
    shown = found[:limit]
    return Page(items=[view(item) for item in shown], next=cursor(shown[-1]) if len(found) > limit else None)


@dataclass(slots=True, kw_only=True)
class Call:
    """One authenticated, validated call of an endpoint."""

    actor: str
    path: dict[str, str]
    body: BaseModel | None
    query: BaseModel | None
    request: web.Request

    def body_as(self, kind: type[M]) -> M:
        """Return the body as the type that the endpoint declares."""
        if not isinstance(self.body, kind):
            message = f"endpoint declares no body {kind.__name__}"
            raise TypeError(message)
        return self.body

    def query_as(self, kind: type[M]) -> M:
        """Return the query as the type that the endpoint declares."""
        if not isinstance(self.query, kind):
            message = f"endpoint declares no query {kind.__name__}"
            raise TypeError(message)
        return self.query


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer with another status than the endpoint's usual one; the endpoint lists it in `also`."""

    value: object
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One operation. `returns` None means an empty 204, unless `media` names the raw type that is streamed."""

    method: str
    path: str
    """Below the prefix, with `{names}`: `/models/{model}/versions`."""
    summary: str
    handler: Callable[[Call], Awaitable[object]]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    returns: type[object] | None = None
    """A type that pydantic can describe: a model, a dataclass, `Page[View]`."""
    status: int = HTTPStatus.OK
    errors: tuple[int, ...] = ()
    also: tuple[int, ...] = ()
    """Further statuses of success, each with the same `returns`."""
    raw_body: str = ""
    """Media type of a body that the handler reads itself, as a stream."""
    media: str = ""
    """Media type of an answer that the handler streams itself."""
    public: bool = False
    """Needs no token."""


class Authenticator(Protocol):
    """Tells who is calling."""

    def actor(self, request: web.Request) -> str:
        """Return the caller's name. Raises UnauthenticatedError."""
        ...


def mount(app: web.Application, endpoints: Iterable[Endpoint], *, prefix: str, auth: Authenticator) -> None:
    """Add the routes of `endpoints` below `prefix`."""
    for endpoint in endpoints:
        route = _Route(endpoint, auth)
        if endpoint.method == "GET":
            app.router.add_get(prefix + endpoint.path, route.serve)
        else:
            app.router.add_route(endpoint.method, prefix + endpoint.path, route.serve)


class _Route:
    def __init__(self, endpoint: Endpoint, auth: Authenticator) -> None:
        self._endpoint = endpoint
        self._auth = auth

    @cached_property
    def _answer(self) -> TypeAdapter[object]:
        return TypeAdapter(self._endpoint.returns or object)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Authenticate first, then read, so that a stranger makes nothing be parsed."""
        endpoint = self._endpoint
        call = Call(
            actor="" if endpoint.public else self._auth.actor(request),
            path=_read_path(request),
            # A parameter that nobody reads is refused too: `?dry_run=true` must never start what it meant to try.
            query=None if endpoint.public else _read_query(request, endpoint.query or Body),
            body=await _read_body(request, endpoint.body) if endpoint.body else None,
            request=request,
        )
        answer = await endpoint.handler(call)
        # A file, or a body of its own media type: the handler has made the whole answer.
        if isinstance(answer, web.StreamResponse):
            return answer
        if endpoint.returns is None:
            return web.Response(status=HTTPStatus.NO_CONTENT)
        reply = answer if isinstance(answer, Reply) else Reply(value=answer, status=endpoint.status)
        return web.Response(body=self._answer.dump_json(reply.value), status=reply.status, content_type=_JSON)


def _read_path(request: web.Request) -> dict[str, str]:
    path = dict(request.match_info)
    wrong = next((name for name, value in path.items() if "\0" in value), None)
    if wrong is not None:
        raise InvalidInputError(field=wrong, problem=_NO_NUL)
    return path


async def _read_body(request: web.Request, kind: type[M]) -> M:
    if request.body_exists and request.content_type not in {_JSON, "application/octet-stream"}:
        # aiohttp says octet-stream where the caller said nothing.
        raise web.HTTPUnsupportedMediaType
    try:
        async with asyncio.timeout(_BODY_S):
            content = await request.read()
    except TimeoutError as exc:
        raise UnreachableError(f"the body did not arrive within {_BODY_S:g} s") from exc
    if _ESCAPED_NUL in content:
        raise InvalidInputError(field="", problem=_NO_NUL)
    try:
        return kind.model_validate_json(content)
    except ValidationError as exc:
        raise invalid_body(exc) from exc


def _read_query(request: web.Request, kind: type[M]) -> M:
    repeated = sorted({name for name in request.query if len(request.query.getall(name)) > 1})
    if repeated:
        raise InvalidRequestError(tuple(ProblemItem(detail="given twice", parameter=name) for name in repeated))
    wrong = [name for name, value in request.query.items() if "\0" in value]
    if wrong:
        raise InvalidRequestError(tuple(ProblemItem(detail=_NO_NUL, parameter=name) for name in wrong))
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as exc:
        raise invalid_query(exc) from exc
