"""The page's server, on loopback: a proven release out, and the page's questions on to one device.

Pages of other sites must not ask a device by way of this one: only this very address, and only its own pages, may call.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web

from shared.errors import InvalidInputError
from shared.pages import PageFiles, kind_of, page_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.browser.release import Proven

    Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOST: Final = "127.0.0.1"
FILES: Final = PageFiles(folder=Path(__file__).parent / "web")
RUNTIME: Final = "litert.js"
"""The first of the files that `make web` lays out."""
TIME_HEADER: Final = "Litefleet-Device-Ms"

_MAX_BODY_BYTES = 64 * 1024 * 1024
_DEVICE_S = 60.0
_PASSED = ("Authorization", "Content-Type", "Inference-Header-Content-Length")
"""Headers that mean something to the device, and to the page in its answers."""


class DeviceModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of a model that it serves."""

    versions: tuple[str, ...] = ()
    parameters: dict[str, str] = {}

    @property
    def artifact_sha256(self) -> str:
        """Digest of the file that answers; empty where the device does not say."""
        return self.parameters.get("artifact_sha256", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The device, as far as it could be asked."""

    url: str
    model: DeviceModel | None
    """None: it does not serve the release, or does not answer; `problem` says which."""
    problem: str = ""

    def in_words(self, artifact_sha256: str) -> str:
        """Say what the page is compared with."""
        if self.model is None:
            return self.problem
        running = self.model.artifact_sha256
        if running and running != artifact_sha256:
            return f"runs another artifact of this release ({running[:12]}…): numbers may differ for that alone"
        return "runs this very file" if running else "serves this release"


async def ask_device(session: aiohttp.ClientSession, url: str, model: str, version: int) -> Beside:
    """Ask a device for a release of a model; that it does not answer is an answer, too."""
    path = _path(url, model, version)
    try:
        async with asyncio.timeout(_DEVICE_S), session.get(path) as reply:
            content = await reply.read()
            if reply.status == HTTPStatus.OK:
                return Beside(url=url, model=msgspec.json.decode(content, type=DeviceModel))
            if reply.status == HTTPStatus.UNAUTHORIZED:
                return Beside(url=url, model=None, problem="asks for an application key: enter it below")
            return Beside(url=url, model=None, problem=f"does not serve {model}/{version} ({reply.status})")
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as exc:
        return Beside(url=url, model=None, problem=f"does not answer: {exc}")


def application(proven: Proven, beside: Beside, session: aiohttp.ClientSession) -> web.Application:
    """Return the page with one release in it, beside one device."""
    page = _Page(proven, beside, session)
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_only_its_own])
    app.add_routes(
        [
            web.get("/", page.index),
            web.get("/web/{file}", page.file),
            web.get("/release.json", page.release),
            web.get("/model.tflite", page.model),
            web.post("/device/{verb:infer|classify}", page.ask),
        ]
    )
    return app


class Announce(Protocol):
    """Is told where the page is, once it can be opened."""

    def __call__(self, url: str) -> None:
        """Tell it."""
        ...


async def serve(proven: Proven, device_url: str, *, port: int, announce: Announce) -> None:
    """Serve the page until it is cancelled. Raises InvalidInputError when the port is in use."""
    async with aiohttp.ClientSession() as session:
        told = proven.manifest
        beside = await ask_device(session, device_url, told.model, told.version_number)
        runner = web.AppRunner(application(proven, beside, session), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port).start()
            announce(f"http://{HOST}:{runner.addresses[0][1]}/")
            await asyncio.Event().wait()
        except OSError as exc:
            raise InvalidInputError(field="port", problem=f"{port} cannot be used: {exc.strerror}") from exc
        finally:
            await runner.cleanup()


class _Page:
    """The endpoints over one release and one device."""

    def __init__(self, proven: Proven, beside: Beside, session: aiohttp.ClientSession) -> None:
        self._proven, self._beside, self._session = proven, beside, session

    async def index(self, _request: web.Request) -> web.StreamResponse:
        """The page itself."""
        return _send("index.html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """One of its files."""
        return _send(request.match_info["file"])

    async def release(self, _request: web.Request) -> web.Response:
        """What the page has to know of the release."""
        artifact = self._proven.artifact
        told = {
            "name": self._proven.name,
            "scheme": artifact.scheme,
            "sha256": artifact.sha256,
            "length_bytes": artifact.length_bytes,
            "signature": self._proven.signature,
            "pipeline": self._proven.manifest.pipeline,
            "inputs": [
                {"name": spec.name, "dtype": spec.dtype, "shape": [1 if size < 0 else size for size in spec.shape]}
                for spec in artifact.inputs
            ],
            "device_url": self._beside.url,
            "device": self._beside.in_words(artifact.sha256),
        }
        return web.Response(body=msgspec.json.encode(told), content_type="application/json", headers=page_headers())

    async def model(self, _request: web.Request) -> web.Response:
        """The signed file, byte for byte."""
        headers = {**page_headers(), "Content-Type": "application/octet-stream"}
        return web.Response(body=self._proven.content, headers=headers)

    async def ask(self, request: web.Request) -> web.Response:
        """Pass a question on to the device, for this release and no other."""
        told = self._proven.manifest
        path = f"{_path(self._beside.url, told.model, told.version_number)}/{request.match_info['verb']}"
        body = await request.read()
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        began_s = time.monotonic()
        try:
            async with (
                asyncio.timeout(_DEVICE_S),
                self._session.post(path, data=body, headers=headers, allow_redirects=False) as reply,
            ):
                content = await reply.read()
                answered_ms = (time.monotonic() - began_s) * 1000
                passed = {name: reply.headers[name] for name in _PASSED if name in reply.headers}
                return web.Response(
                    status=reply.status, body=content, headers={**passed, TIME_HEADER: f"{answered_ms:.3f}"}
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            body = msgspec.json.encode({"detail": f"{self._beside.url} does not answer: {exc}"})
            return web.Response(status=HTTPStatus.BAD_GATEWAY, body=body, content_type="application/json")


@web.middleware
async def _only_its_own(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
    # A name that somebody else's server has turned towards this machine carries that name here.
    if request.host not in {f"{HOST}:{port}", f"localhost:{port}"}:
        raise web.HTTPForbidden(text=f"this page is at http://{HOST}:{port}/ alone")
    # Browsers say whose page asks; programs need not.
    if request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        raise web.HTTPForbidden(text="pages of other sites may not ask here")
    return await handler(request)


def _path(url: str, model: str, version: int) -> str:
    return f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}/versions/{version}"


def _send(name: str) -> web.FileResponse:
    path = FILES.find(name)
    if path is None:
        raise web.HTTPNotFound(text=f"there is no file {name[:80]!r}")
    return web.FileResponse(path, headers={**page_headers(wasm=True), "Content-Type": kind_of(path)})
