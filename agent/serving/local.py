"""`litefleet-agent serve FILE`: a local model on loopback, for development, without a controller or any proof."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from agent.core.plan import Plan, Route, SlotSpec
from agent.doors import GROUP_MAY_CALL
from agent.serving.callers.access import Access
from agent.serving.callers.cors import check_origins
from agent.serving.callers.in_flight import Traffic
from agent.serving.engine import Engine
from agent.serving.models.loading import COMPONENTS_DIR, MANIFEST_FILE, MODEL_FILE, LoadedModel, load_model, open_litert
from agent.serving.planned.sockets import connect_unix, listen_unix
from agent.serving.preparing import prepare_process
from agent.serving.protocols import endpoints
from agent.serving.protocols.api import create_app
from agent.serving.protocols.fast_lane import FastRunner, lane_of
from agent.serving.protocols.scrape import Scrape
from shared import manifest
from shared.clock import SystemClock, mint_id
from shared.errors import InvalidInputError, ModelLoadError, UntrustedError
from shared.ids import BootId, ModelName, ReleaseId, model_name
from shared.pipeline import MODEL_ONLY

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from shared.pipeline import PipelineSpec

UNVERIFIED = "local file: no signature was checked, no rollout stands behind it"
_LOCAL = ReleaseId("local")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDoors:
    """Where a development server is asked. Only from this machine, so that it asks nobody for a key."""

    http_port: int
    """0 takes a free one."""
    grpc_port: int | None = None
    """None: gRPC is not spoken."""
    unix_socket: Path | None = None
    """Path of a unix socket for the members of this user's group; None: there is none."""
    host: str = "127.0.0.1"
    cors_origins: tuple[str, ...] = ()
    """Whose pages in a browser may call; see `agent.config`."""

    def check(self) -> None:
        """Raise InvalidInputError for what would not be this machine alone, is no origin, or would cost a file."""
        try:
            is_loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            problem = f"{self.host} is no loopback address"
            raise InvalidInputError(field="host", problem=problem, remedy="use 127.0.0.1 or ::1")
        check_origins(self.cors_origins, field="cors_origin")
        path = self.unix_socket
        if path is not None and path.exists() and not path.is_socket():
            raise InvalidInputError(field="unix_socket", problem=f"{path} is a file", remedy="name another place")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFiles:
    """What is served, read once."""

    model: bytes
    pipeline: PipelineSpec
    components: Mapping[str, bytes]
    """The other models that the pipeline runs."""


def serve_file(path: Path, *, name: str, doors: LocalDoors) -> None:
    """Serve a `.tflite` file, or a release's folder with its pipeline, until SIGINT or SIGTERM.

    Raises:
        InvalidInputError: the host is not loopback, a port is in use, the path is no such file, gRPC is not installed.
        InvalidIdError: the name is no slug.
        ModelLoadError: the runtime refuses the file, or its pipeline does not fit it.
    """
    doors.check()
    prepare_process()
    asyncio.run(_serve(read_files(path), name=model_name(name), doors=doors))


class LocalLoading:
    """Loads and unloads the one model of a development server when a caller says so."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        """`plan` is the one that holds the model."""
        self._engine, self._plan = engine, plan

    async def load(self, model: ModelName) -> None:
        """Load it, unless it is loaded: the file was read when the server started."""
        self._engine.route(model)
        applied = await self._engine.apply(self._plan)
        if not applied.slots[0].loaded:
            raise ModelLoadError(applied.slots[0].error)

    async def unload(self, model: ModelName) -> None:
        """Stop answering for it, until it is loaded again."""
        self._engine.route(model)
        withheld = Route(model=model, primary=None, unavailable_reason="unloaded")
        await self._engine.apply(Plan(serial=self._plan.serial, routes=(withheld,)))


async def _serve(files: LocalFiles, *, name: ModelName, doors: LocalDoors) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def load(slot: SlotSpec) -> LoadedModel:
        cores = os.cpu_count() or 1
        return load_model(
            files.model,
            files.pipeline,
            threads=slot.threads,
            cores=cores,
            open_interpreter=open_litert,
            components=files.components,
        )

    engine = Engine(boot_id=BootId(mint_id(SystemClock())), load=load)
    applied = await engine.apply(_plan(name, files.model))
    if not applied.slots[0].loaded:
        raise ModelLoadError(applied.slots[0].error)
    try:
        async with contextlib.AsyncExitStack() as undo:
            await _listen(undo, engine, name, LocalLoading(engine, _plan(name, files.model)), doors)
            await stop.wait()
    finally:
        await engine.close()


async def _listen(
    undo: contextlib.AsyncExitStack, engine: Engine, name: ModelName, loading: LocalLoading, doors: LocalDoors
) -> None:
    """Open every door, and only then say that any of them is open."""
    traffic, access = Traffic(), Access(engine, origins=doors.cors_origins)
    started_ms = SystemClock().now().timestamp() * 1000
    shown = Scrape(engine=engine, traffic=traffic, started_ms=started_ms)
    routes = endpoints.routes(engine, unverified=UNVERIFIED, loading=loading, shown=shown)
    app = create_app(routes, traffic, access, unverified=UNVERIFIED)
    runner = FastRunner(app, lane_of(engine, traffic, access, unverified=UNVERIFIED))
    await runner.setup()
    undo.push_async_callback(runner.cleanup)
    await _listen_tcp(runner, doors)
    opened = [f"on http://{doors.host}:{runner.addresses[0][1]}/v2/models/{name}"]
    if doors.unix_socket is not None:
        undo.callback(_remove, doors.unix_socket, await _listen_unix(runner, doors.unix_socket))
        opened.append(f"on unix:{doors.unix_socket}")
    if doors.grpc_port is not None:
        server, bound = await endpoints.listen_grpc(
            engine,
            traffic,
            access,
            host=doors.host,
            port=doors.grpc_port,
            unverified=UNVERIFIED,
            loading=loading,
        )
        undo.push_async_callback(server.stop)
        opened.append(f"over gRPC on {doors.host}:{bound}")
    _say(f"UNVERIFIED {UNVERIFIED}")
    for door in opened:
        _say(f"serving {name} {door}")


async def _listen_tcp(runner: web.AppRunner, doors: LocalDoors) -> None:
    try:
        await web.TCPSite(runner, doors.host, doors.http_port).start()
    except OSError as exc:
        problem = f"{doors.http_port} on {doors.host} cannot be used: {os.strerror(exc.errno or 0)}"
        raise InvalidInputError(field="http_port", problem=problem, remedy="choose another") from exc


async def _listen_unix(runner: web.AppRunner, path: Path) -> int:
    """Listen at a path, and return the number of the file that is the socket."""
    listener, inode = _bound(path)
    await web.SockSite(runner, listener).start()
    return inode


def _bound(path: Path) -> tuple[socket.socket, int]:
    if _is_taken(path):
        problem = f"another server answers at {path}"
        raise InvalidInputError(field="unix_socket", problem=problem, remedy="stop it, or name another place")
    try:
        return listen_unix(path, mode=GROUP_MAY_CALL), path.stat().st_ino
    except OSError as exc:
        problem = f"{path} cannot be used: {exc.strerror}"
        raise InvalidInputError(field="unix_socket", problem=problem, remedy="name another place") from exc


def _remove(path: Path, inode: int) -> None:
    """Remove the socket, unless another server has put its own there meanwhile."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def _is_taken(path: Path) -> bool:
    try:
        connect_unix(path, timeout_s=1.0).close()
    except OSError:
        # What a server that ended has left there may be replaced.
        return False
    return True


def read_files(path: Path) -> LocalFiles:
    """Read a `.tflite` file, or a release's folder. Raises InvalidInputError, which names what cannot be read."""
    try:
        if not path.is_dir():
            return LocalFiles(model=path.read_bytes(), pipeline=MODEL_ONLY, components={})
        described = manifest.decode((path / MANIFEST_FILE).read_bytes())
        components = {
            each.name: (path / COMPONENTS_DIR / f"{each.name}.tflite").read_bytes() for each in described.components
        }
        return LocalFiles(model=(path / MODEL_FILE).read_bytes(), pipeline=described.pipeline, components=components)
    except OSError as exc:
        remedy = f"a release's folder holds {MANIFEST_FILE} and {MODEL_FILE}" if path.is_dir() else ""
        missing = str(exc.filename or path)
        raise InvalidInputError(field=missing, problem=f"cannot be read: {exc.strerror}", remedy=remedy) from exc
    except UntrustedError as exc:
        raise InvalidInputError(field=f"{path}/{MANIFEST_FILE}", problem=str(exc)) from exc


def _plan(name: ModelName, model: bytes) -> Plan:
    digest = manifest.digest(model)
    slot = SlotSpec(
        model=name,
        release_id=_LOCAL,
        version_number=0,
        folder="",
        artifact_sha256=digest,
        manifest_sha256=digest,
    )
    return Plan(serial=0, slots=(slot,), routes=(Route(model=name, primary=_LOCAL),))


def _say(text: str) -> None:
    print(f"litefleet-agent: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a person watches this terminal
