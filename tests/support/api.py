"""A real HTTP server on loopback with a table of endpoints, and a client of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from controller.http.auth import OperatorToken
from controller.http.endpoint import MAX_BODY_BYTES, mount
from controller.http.errors import problems
from controller.http.request_id import request_ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from controller.http.endpoint import Endpoint

TOKEN = "operator-token-of-this-test"


@contextlib.asynccontextmanager
async def served_api(endpoints: Iterable[Endpoint], *, token: str = TOKEN) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve endpoints under /api/v1 and lend a session that calls them as the operator."""
    app = web.Application(middlewares=[request_ids, problems], client_max_size=MAX_BODY_BYTES)
    mount(app, endpoints, prefix="/api/v1", auth=OperatorToken(TOKEN))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession(
            base_url=f"http://{host}:{port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=10),
        ) as session:
            yield session
    finally:
        await runner.cleanup()
