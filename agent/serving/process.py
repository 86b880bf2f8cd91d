"""`python -m agent.serving.process`: the composition root of the serving process, started by the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from agent import config, logs
from agent.doors import is_loopback
from agent.serving.callers.access import Access
from agent.serving.callers.in_flight import Traffic
from agent.serving.callers.tls import ServerCertificate
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.models.residency import Limits, default_budget_bytes
from agent.serving.planned.boot import BootLedger
from agent.serving.planned.link import ServingLink
from agent.serving.planned.planning import Planner
from agent.serving.planned.sockets import hand_over, listen_unix, numbered
from agent.serving.preparing import prepare_process
from agent.serving.protocols import endpoints
from agent.serving.protocols.api import create_app
from agent.serving.protocols.fast_lane import FastRunner, lane_of
from agent.serving.protocols.mqtt_requests import MqttRequests
from agent.serving.protocols.scrape import Scrape, ScrapeAnswers
from agent.serving.recording.observation import Observer
from agent.serving.recording.request_log import RequestLog
from agent.serving.traffic.learning import Learning
from shared.clock import SystemClock, mint_id
from shared.errors import InvalidInputError
from shared.ids import BootId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config import AgentConfig
    from agent.serving.models.loading import OpenInterpreter
    from agent.serving.protocols.endpoints import Listening

SHUTDOWN_S: Final = 10.0
"""Seconds that requests in flight get when the process is told to stop."""

BOOT_S: Final = 5.0
"""Seconds that callers are kept waiting for the plan on disk; then those of models that have loaded are served."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of the serving processes this one is."""

    number: int = 0
    together: str = ""
    """The round in which it was started with the others; empty when it starts again on its own."""


async def serve(
    settings: AgentConfig,
    listeners: Sequence[socket.socket],
    *,
    place: Place,
    open_interpreter: OpenInterpreter = open_litert,
) -> None:
    """Serve on inherited sockets until SIGTERM, then finish the requests in flight."""
    stop = _told_to_stop()
    load = partial(load_slot, cores=_cores(settings), open_interpreter=open_interpreter)
    learning = Learning.of_device(settings.rewards_path)
    boot_id = BootId(mint_id(SystemClock()))
    observer = _observer(settings, boot_id)
    engine = Engine(boot_id=boot_id, load=load, limits=_limits(settings), learning=learning, observer=observer)
    planner = Planner(engine, BootLedger(settings.boot_path, number=place.number), together=place.together)
    traffic, certificate = Traffic(), _certificate(settings)
    shown = _shown(settings, engine, traffic, place)
    answers = ScrapeAnswers(shown, otherwise=MqttRequests(engine, otherwise=planner.answer).answer)
    link = ServingLink(answers.answer)
    access = _access(settings, engine)
    # All but hung requests have ended when the runner's own shutdown begins.
    app = create_app(endpoints.routes(engine, shown=shown), traffic, access)
    runner = FastRunner(app, lane_of(engine, traffic, access), shutdown_timeout_s=1.0)
    await runner.setup()
    try:
        async with asyncio.TaskGroup() as group:
            # First of all: a new supervisor must be able to find us however long the models take to load.
            door = listen_unix(settings.run_dir / f"{numbered('sockets', place.number)}.sock")
            running = [group.create_task(_pass_on(door, listeners))]
            await link.start(listen_unix(settings.serving_sockets[place.number]))
            running.append(group.create_task(planner.boot()))
            running.append(group.create_task(engine.unload_idle()))
            running.append(group.create_task(traffic.connections.watch(runner)))
            if certificate is not None:
                running.append(group.create_task(certificate.watch()))
            # Until then callers wait in the backlog, and get an answer where they would get 503.
            await planner.booted(within_s=BOOT_S)
            for listener in listeners:
                await _open(runner, listener, certificate)
            grpc = await _listen_grpc(engine, traffic, settings, access=access, certificate=certificate)
            _log.info("serving_started", boot_id=boot_id, pid=os.getpid())
            await stop.wait()
            await _finish(runner, grpc, traffic)
            for task in running:
                task.cancel()
    finally:
        await link.close()
        await runner.cleanup()
        await engine.close()
        await asyncio.to_thread(observer.close)
        _log.info("serving_stopped")


def _told_to_stop() -> asyncio.Event:
    """Return what a signal sets that says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _finish(runner: web.AppRunner, grpc: Listening | None, traffic: Traffic) -> None:
    """Take no more callers, and let the requests in flight end."""
    for site in tuple(runner.sites):
        await site.stop()
    if grpc is not None:
        await grpc.stop()
    _log.info("serving_stopping", finished=await traffic.end(within_s=SHUTDOWN_S))


def main(*, open_interpreter: OpenInterpreter = open_litert) -> int:
    """Read arguments and settings, and serve."""
    parser = argparse.ArgumentParser(prog="python -m agent.serving.process", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the agent's settings")
    parser.add_argument("--listen-fd", type=int, action="append", required=True, help="inherited listening socket")
    parser.add_argument("--number", type=int, default=0, help="which of the serving processes this is, from 0 on")
    parser.add_argument("--round", default="", help="what is started in the same round takes one try of a candidate")
    arguments = parser.parse_args()
    try:
        settings = config.load(arguments.config, os.environ)
    except InvalidInputError as exc:
        print(f"litefleet-agent: {exc}", file=sys.stderr)  # noqa: T201 - logging is set up by the settings
        return os.EX_CONFIG
    logs.set_up(settings.log_level)
    prepare_process()
    listeners = [socket.socket(fileno=fd) for fd in arguments.listen_fd]
    for listener in listeners:
        listener.setblocking(False)
    place = Place(number=arguments.number, together=arguments.round)
    asyncio.run(serve(settings, listeners, place=place, open_interpreter=open_interpreter))
    return os.EX_OK


def _observer(settings: AgentConfig, boot_id: BootId) -> Observer:
    clock = SystemClock()
    log = RequestLog(
        folder=settings.request_log_dir, boot_id=boot_id, clock=clock, budget_bytes=settings.request_log_bytes
    )
    chance = random.Random()  # noqa: S311 - draws samples; guards nothing
    return Observer(chance=chance, clock=clock, log=log, processes=settings.serving_processes)


def _shown(settings: AgentConfig, engine: Engine, traffic: Traffic, place: Place) -> Scrape:
    started_ms = SystemClock().now().timestamp() * 1000
    siblings = tuple(path for number, path in enumerate(settings.serving_sockets) if number != place.number)
    return Scrape(engine=engine, traffic=traffic, started_ms=started_ms, siblings=siblings)


def _access(settings: AgentConfig, engine: Engine) -> Access:
    engine.applications.divide(settings.serving_processes)
    return Access(engine, is_wide=settings.is_wide, origins=settings.cors_origins)


def _certificate(settings: AgentConfig) -> ServerCertificate | None:
    """Return the certificate for other machines; None where they cannot call."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    certificate = ServerCertificate(settings.tls_certificate, settings.tls_key)
    # A pair that cannot be used costs other machines their answers, and this one none; it is looked at again.
    certificate.refresh()
    return certificate


async def _open(runner: web.AppRunner, listener: socket.socket, certificate: ServerCertificate | None) -> None:
    """Serve on a socket: on this machine as it is, for other machines over TLS only."""
    tls = None if is_loopback(listener) else certificate
    if tls is None and not is_loopback(listener):
        # No setting leads here: a supervisor that opens a socket wide has seen to the certificate.
        _log.error("socket_refused", address=str(listener.getsockname()))
        return
    # A copy: the site closes its own, and the original stays to be passed on.
    await web.SockSite(runner, listener.dup(), ssl_context=tls.context if tls else None).start()


def _cores(settings: AgentConfig) -> int:
    """Return this process's share of the cores."""
    return max(1, (os.cpu_count() or 1) // settings.serving_processes)


def _limits(settings: AgentConfig) -> Limits:
    budget = settings.model_memory_bytes or default_budget_bytes()
    return Limits(memory_bytes=budget // settings.serving_processes, idle_unload_s=settings.idle_unload_s)


async def _listen_grpc(
    engine: Engine,
    traffic: Traffic,
    settings: AgentConfig,
    *,
    access: Access,
    certificate: ServerCertificate | None,
) -> Listening | None:
    if settings.grpc_port is None:
        return None
    host, port = settings.http_host, settings.grpc_port
    try:
        server, port = await endpoints.listen_grpc(
            engine,
            traffic,
            access,
            host=host,
            port=port,
            certificate=certificate,
            is_shared=settings.serving_processes > 1,
        )
    except InvalidInputError as exc:
        # Callers over HTTP must not go without answers for it.
        _log.error("grpc_not_served", error=str(exc))
        return None
    _log.info("grpc_started", port=port)
    return server


async def _pass_on(door: socket.socket, listeners: Sequence[socket.socket]) -> None:
    """Hand the listening sockets to every supervisor that asks: it is a new one, after the old one was killed."""
    loop = asyncio.get_running_loop()
    with door:
        while True:
            connection, _ = await loop.sock_accept(door)
            try:
                hand_over(connection, listeners)
            except OSError as exc:
                _log.warning("hand_over_failed", error=str(exc))


if __name__ == "__main__":
    sys.exit(main())
