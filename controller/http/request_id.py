"""Every request has an id: the caller's own if it is harmless, else a fresh one; logs and answers carry it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from shared.clock import SystemClock, mint_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEADER = "X-Request-Id"
_KEY: web.RequestKey[str] = web.RequestKey("request_id", str)
# What may stand in a log line and a header without escaping.
_HARMLESS = re.compile(r"[A-Za-z0-9._-]{8,64}")
_clock = SystemClock()


def request_id(request: web.Request) -> str:
    """Return the id of a request that passed the middleware."""
    name: str = request.get(_KEY, "")
    return name


@web.middleware
async def request_ids(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Name the request, in the log context too, and tell the caller the name."""
    given = request.headers.get(HEADER, "")
    name = given if _HARMLESS.fullmatch(given) else mint_id(_clock)
    request[_KEY] = name
    with structlog.contextvars.bound_contextvars(request_id=name):
        response = await handler(request)
    # A stream has sent its headers already.
    if not response.prepared:
        response.headers[HEADER] = name
    return response
