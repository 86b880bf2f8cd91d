"""The inference API over a real engine in this process, and a client of it."""

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from PIL import Image

from agent.serving.callers.access import Access
from agent.serving.callers.in_flight import Traffic
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.protocols import endpoints
from agent.serving.protocols.api import create_app
from agent.serving.protocols.fast_lane import FastRunner, lane_of
from shared.ids import BootId
from shared.pipeline import ColourMode, DecodeImage, Normalise, PipelineSpec, ResizeImage, RunModel, TopLabels
from tests.support import models
from tests.support.ports import LOOPBACK
from tests.support.serving import make_slot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.core.plan import SlotSpec

LABELS = tuple("abcdefghij")
IMAGE_PIPELINE = PipelineSpec(
    steps=(
        DecodeImage(colour=ColourMode.GREY),
        ResizeImage(height=1, width=10),
        Normalise(scale=1 / 255),
        RunModel(),
        TopLabels(count=2),
    ),
    labels=LABELS,
)


class Served:
    """The API over a real engine, and a client."""

    def __init__(self, engine: Engine, session: aiohttp.ClientSession, *, url: str, grpc: str) -> None:
        self.engine, self._session = engine, session
        self.url, self.grpc = url, grpc

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Ask for a page of JSON."""
        async with self._session.get(f"{self.url}{path}") as reply:
            return reply.status, await reply.json(content_type=None)

    async def get_raw(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Ask for a page; returns status, bytes and headers."""
        async with self._session.get(f"{self.url}{path}") as reply:
            return reply.status, await reply.read(), dict(reply.headers)

    async def post(
        self, path: str, data: bytes | io.BytesIO, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Send a body; returns status, JSON and headers."""
        status, body, got = await self.post_raw(path, data, headers)
        return status, json.loads(body), got

    async def post_raw(
        self, path: str, data: bytes | io.BytesIO, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send a body; returns status, bytes and headers."""
        async with self._session.post(f"{self.url}{path}", data=data, headers=headers) as reply:
            return reply.status, await reply.read(), dict(reply.headers)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    """Serve every protocol on a free port; no plan is in force yet."""
    load = partial(load_slot, cores=1, open_interpreter=open_litert)
    engine = Engine(boot_id=BootId("boot"), load=load)
    traffic, access = Traffic(), Access(engine)
    app = create_app(endpoints.routes(engine), traffic, access)
    runner = FastRunner(app, lane_of(engine, traffic, access))
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    server, port = await endpoints.listen_grpc(engine, traffic, Access(engine), host=LOOPBACK, port=0)
    async with aiohttp.ClientSession() as session:
        url = f"http://{LOOPBACK}:{runner.addresses[0][1]}"
        yield Served(engine, session, url=url, grpc=f"{LOOPBACK}:{port}")
    await server.stop()
    await runner.cleanup()
    await engine.close()


def image_slot(releases: Path) -> SlotSpec:
    """Grey images of 1 × 10 pixels, named for their brightest pixel."""
    return make_slot(releases, models.one_hot_classifier(input_shape=(1, 10, 1)), pipeline=IMAGE_PIPELINE)


def picture(position: int, kind: str = "PNG") -> bytes:
    """An image of which `position` is the brightest pixel."""
    image = Image.new("L", (10, 1))
    image.putpixel((position, 0), 255)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()
