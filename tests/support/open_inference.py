"""The inference API as other machines reach it: TLS, application keys, a certificate of the test's own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from agent.serving.callers.access import Access
from agent.serving.callers.in_flight import Traffic
from agent.serving.callers.tls import ServerCertificate
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.planned.sockets import listen_unix
from agent.serving.protocols import endpoints
from agent.serving.protocols.api import create_app
from agent.serving.protocols.fast_lane import FastRunner, lane_of
from shared.ids import BootId
from tests.support.certificates import Pair
from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import timedelta
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Opened:
    """The API over a real engine, by every door."""

    engine: Engine
    certificate: ServerCertificate
    pair: Pair
    url: str
    unix_socket: Path
    grpc: str

    async def get(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        data: bytes | None = None,
        unix: bool = False,
    ) -> tuple[int, Any, dict[str, str]]:
        """Ask over TLS, or by the unix socket; returns status, JSON or text, and headers."""
        connector = (
            aiohttp.UnixConnector(str(self.unix_socket)) if unix else aiohttp.TCPConnector(ssl=self.pair.trusted())
        )
        url = "http://localhost" if unix else self.url
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"{url}{path}", headers=headers, data=data) as reply,
        ):
            is_json = "json" in reply.content_type
            body = await reply.json(content_type=None) if is_json else await reply.text()
            return reply.status, body, dict(reply.headers)


@contextlib.asynccontextmanager
async def opened(folder: Path, *, lasting: timedelta, origins: Sequence[str] = ()) -> AsyncIterator[Opened]:
    """Serve every protocol as to other machines; no plan is in force yet."""
    pair = Pair(folder / "tls.crt", folder / "tls.key")
    pair.write("first", lasting=lasting)
    certificate = ServerCertificate(pair.certificate, pair.key)
    certificate.refresh()
    engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=open_litert))
    traffic, access = Traffic(), Access(engine, is_wide=True, origins=origins)
    runner = FastRunner(create_app(endpoints.routes(engine), traffic, access), lane_of(engine, traffic, access))
    await runner.setup()
    unix_socket = folder / "infer.sock"
    await web.TCPSite(runner, LOOPBACK, 0, ssl_context=certificate.context).start()
    await web.SockSite(runner, listen_unix(unix_socket, mode=0o660)).start()
    server, port = await endpoints.listen_grpc(engine, traffic, access, host=LOOPBACK, port=0, certificate=certificate)
    port_http = next(address[1] for address in runner.addresses if isinstance(address, tuple))
    yield Opened(
        engine=engine,
        certificate=certificate,
        pair=pair,
        url=f"https://{LOOPBACK}:{port_http}",
        unix_socket=unix_socket,
        grpc=f"{LOOPBACK}:{port}",
    )
    await server.stop()
    await runner.cleanup()
    await engine.close()
