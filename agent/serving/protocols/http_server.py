"""The HTTP server under the application: what it cannot even hand to an endpoint is answered as every error is.

The library tells of each such request with a traceback in the log, which any caller could fill with it.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from typing_extensions import override

from agent.serving.protocols.api import NOT_ENCODED, problem


class HttpRunner(web.AppRunner):
    """Starts and ends the server of one application. It keeps no log of requests."""

    def __init__(self, app: web.Application, *, shutdown_timeout_s: float = 60.0) -> None:
        """`shutdown_timeout_s`: requests in flight get so long to end."""
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout_s)

    @override
    async def _make_server(self) -> web.Server:
        # The one place where the library lets another server be made; starting the application is left to it.
        made = await super()._make_server()
        return Server(made.request_handler, request_factory=made.request_factory, access_log=None)


class Server(web.Server):
    """Makes a connection of ours for each that is accepted."""

    @override
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or what no endpoint has an answer for; the connection ends with it."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        # The library advises callers to install what this server has not.
        detail = NOT_ENCODED if isinstance(exc, ContentEncodingError) else message or "this is no HTTP request"
        answer = problem(HTTPStatus(status), "http", detail)
        answer.force_close()
        return answer

    @override
    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what went wrong here, and not what a caller sent."""
        # When the answer is written, the library reads on to the end of a body that nobody can decode.
        if not isinstance(sys.exception(), web.RequestPayloadError):
            super().log_exception(*args, **kw)
