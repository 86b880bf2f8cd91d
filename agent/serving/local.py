"""`litefleet-agent serve FILE`: a local model on loopback, for development, without a controller or any proof."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import sys
from typing import TYPE_CHECKING

from aiohttp import web

from agent.core.plan import Plan, Route, SlotSpec
from agent.serving import protocols
from agent.serving.api import create_app
from agent.serving.engine import Engine
from agent.serving.loading import MANIFEST_FILE, MODEL_FILE, LoadedModel, load_model, open_litert
from agent.serving.traffic import Traffic
from shared import manifest
from shared.clock import SystemClock, mint_id
from shared.errors import InvalidInputError, ModelLoadError, UntrustedError
from shared.ids import BootId, ModelName, ReleaseId, model_name
from shared.pipeline import MODEL_ONLY

if TYPE_CHECKING:
    from pathlib import Path

    from agent.serving.protocols import Listening
    from shared.pipeline import PipelineSpec

UNVERIFIED = "local file: no signature was checked, no rollout stands behind it"
_LOCAL = ReleaseId("local")


def serve_file(path: Path, *, name: str, http_port: int, grpc_port: int | None = None, host: str = "127.0.0.1") -> None:
    """Serve a `.tflite` file, or a release's folder with its pipeline, until SIGINT or SIGTERM.

    Raises:
        InvalidInputError: the host is not loopback, a port is in use, the path is no such file, gRPC is not installed.
        InvalidIdError: the name is no slug.
        ModelLoadError: the runtime refuses the file, or its pipeline does not fit it.
    """
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise InvalidInputError(field="host", problem=f"{host} is no loopback address", remedy="use 127.0.0.1 or ::1")
    model, pipeline = _read(path)
    asyncio.run(_serve(model, pipeline, name=model_name(name), host=host, http_port=http_port, grpc_port=grpc_port))


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


async def _serve(
    model: bytes, pipeline: PipelineSpec, *, name: ModelName, host: str, http_port: int, grpc_port: int | None
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def load(slot: SlotSpec) -> LoadedModel:
        cores = os.cpu_count() or 1
        return load_model(model, pipeline, threads=slot.threads, cores=cores, open_interpreter=open_litert)

    engine = Engine(boot_id=BootId(mint_id(SystemClock())), load=load)
    applied = await engine.apply(_plan(name, model))
    if not applied.slots[0].loaded:
        raise ModelLoadError(applied.slots[0].error)
    loading, traffic = LocalLoading(engine, _plan(name, model)), Traffic()
    routes = protocols.routes(engine, unverified=UNVERIFIED, loading=loading)
    runner = web.AppRunner(create_app(routes, traffic, unverified=UNVERIFIED), access_log=None)
    await runner.setup()
    listening: list[Listening] = []
    try:
        await web.TCPSite(runner, host, http_port).start()
        _say(f"UNVERIFIED {UNVERIFIED}")
        _say(f"serving {name} on http://{host}:{runner.addresses[0][1]}/v2/models/{name}")
        if grpc_port is not None:
            server, bound = await protocols.listen_grpc(
                engine, traffic, host=host, port=grpc_port, unverified=UNVERIFIED, loading=loading
            )
            listening.append(server)
            _say(f"serving {name} over gRPC on {host}:{bound}")
        await stop.wait()
    except OSError as exc:
        problem = f"{http_port} on {host} cannot be used: {exc.strerror}"
        raise InvalidInputError(field="http_port", problem=problem, remedy="choose another") from exc
    finally:
        for each in listening:
            await each.stop()
        await runner.cleanup()
        await engine.close()


def _read(path: Path) -> tuple[bytes, PipelineSpec]:
    try:
        if not path.is_dir():
            return path.read_bytes(), MODEL_ONLY
        described = manifest.decode((path / MANIFEST_FILE).read_bytes())
        return (path / MODEL_FILE).read_bytes(), described.pipeline
    except OSError as exc:
        raise InvalidInputError(field=str(path), problem=f"cannot be read: {exc.strerror}") from exc
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
