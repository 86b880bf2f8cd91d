"""Connections that nobody uses end on a real server, so that whoever comes back on one of them hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from agent.serving.callers.access import Access
from agent.serving.callers.connections import BUSY_S
from agent.serving.callers.in_flight import Traffic
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.protocols import endpoints
from agent.serving.protocols.api import create_app
from agent.serving.protocols.fast_lane import FastRunner, lane_of
from agent.serving.protocols.http_server import HttpRunner
from shared.ids import BootId
from tests.support.ports import LOOPBACK
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Larger than the buffers of both sockets together.
ENDLESS = 64 * 1024 * 1024


async def endless(_request: web.Request) -> web.Response:
    return web.Response(body=bytes(ENDLESS))


@contextlib.asynccontextmanager
async def running(*, with_lane: bool) -> AsyncIterator[tuple[HttpRunner, Traffic]]:
    engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=open_litert))
    traffic, access = Traffic(), Access(engine)
    app = create_app([*endpoints.routes(engine), web.get("/endless", endless)], traffic, access)
    runner = FastRunner(app, lane_of(engine, traffic, access)) if with_lane else HttpRunner(app)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    yield runner, traffic
    await runner.cleanup()
    await engine.close()


def sweep(runner: HttpRunner, traffic: Traffic, *, in_s: float) -> int:
    """Sweep as if so much time had passed."""
    assert runner.server is not None
    open_now = tuple(runner.server.connections)
    traffic.connections.sweep(open_now, now_s=time.monotonic())
    return traffic.connections.sweep(open_now, now_s=time.monotonic() + in_s)


def writing(runner: HttpRunner) -> int:
    """Bytes that wait for readers."""
    assert runner.server is not None
    sockets = [each.transport for each in runner.server.connections]
    return sum(each.get_write_buffer_size() for each in sockets if isinstance(each, asyncio.WriteTransport))


@pytest.mark.parametrize("with_lane", [False, True])
async def test_silent_and_idle_connections_are_ended_so_that_their_callers_hear_of_it(with_lane: bool) -> None:
    async with running(with_lane=with_lane) as (runner, traffic), asyncio.timeout(20):
        idle, asking = await asyncio.open_connection(LOOPBACK, runner.addresses[0][1])
        silent, saying = await asyncio.open_connection(LOOPBACK, runner.addresses[0][1])
        asking.write(LIVE)
        assert b"200 OK" in await idle.readuntil(b'{"live":true}')
        assert sweep(runner, traffic, in_s=100) == 2
        assert await silent.read() == await idle.read() == b""
        for writer in (asking, saying):
            writer.close()


async def test_reader_that_does_not_read_is_cut_off() -> None:
    async with running(with_lane=True) as (runner, traffic), asyncio.timeout(20):
        _, asking = await asyncio.open_connection(LOOPBACK, runner.addresses[0][1])
        asking.write(LIVE.replace(b"/v2/health/live", b"/endless"))
        await wait_until_async(lambda: writing(runner) > 0, what="more is written than is read")
        assert sweep(runner, traffic, in_s=BUSY_S + 1) == 1
        await wait_until_async(lambda: writing(runner) == 0, what="nobody holds the answer any more")
        asking.transport.abort()
