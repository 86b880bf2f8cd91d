"""Sets the stage: a controller, a broker and a fleet of agents, each a process of its own, in one folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from controller.client import Client
from controller.demo.broker import Broker, start_broker
from controller.demo.broker_kind import BrokerKind
from controller.demo.processes import Programs, free_ports, python_module
from controller.toml import write_settings
from shared.errors import UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from controller.demo.screen import Screen

START_TIMEOUT_S = 60.0
"""Two busy cores take about 20 s to start twelve agents; three times that is broken."""
_POLL_S = 0.2
_TOGETHER = 4
"""Devices that enrol at a time: each is a Python start-up, and there may be two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One device of the demo."""

    name: str
    site: str
    state: Path
    url: str


@dataclass(slots=True, kw_only=True)
class World:
    """Everything that runs."""

    folder: Path
    programs: Programs
    broker: Broker
    api_url: str
    token_file: Path
    agents: list[Agent]

    @property
    def controller_state(self) -> Path:
        """The controller's state folder."""
        return self.folder / "controller"

    def client(self) -> Client:
        """Return a client of the controller's API."""
        return Client(self.api_url, self.token_file.read_text(encoding="ascii").strip())


async def build(
    folder: Path, programs: Programs, *, devices: int, screen: Screen, broker: BrokerKind = BrokerKind.AUTO
) -> World:
    """Start controller, broker and agents, and wait until every device is enrolled and seen."""
    state = folder / "controller"
    api_port, device_port, broker_port, *agent_ports = free_ports(3 + devices)
    config = folder / "controller.toml"
    write_settings(
        config,
        {
            "state_dir": str(state),
            "api_port": api_port,
            "device_host": "127.0.0.1",
            "device_port": device_port,
            "device_names": ["127.0.0.1", "localhost"],
            "broker_port": broker_port,
            "tick_s": 0.2,
        },
    )
    running_broker = await start_broker(programs, state, port=broker_port, screen=screen, kind=broker)
    await programs.start("controller", *python_module("controller", "--config", str(config)))
    url = f"http://127.0.0.1:{api_port}"
    await _wait_http(programs, f"{url}/healthz")
    screen.done(f"controller at {url}")
    world = World(
        folder=folder,
        programs=programs,
        broker=running_broker,
        api_url=url,
        token_file=state / "operator-token",
        agents=[_agent(folder, index, port) for index, port in enumerate(agent_ports)],
    )
    async with world.client() as api:
        status = await api.status()
        if status.lab_mode:
            screen.warn("lab mode: all signing keys are on the controller; in earnest, keep root and targets offline")
        limit = asyncio.Semaphore(_TOGETHER)
        async with asyncio.TaskGroup() as tasks:
            for agent in world.agents:
                tasks.create_task(_join(world, api, agent, limit))
    await _wait_fleet(world)
    screen.done(f"{devices} agents enrolled over TLS and connected")
    return world


def _agent(folder: Path, index: int, port: int) -> Agent:
    name = f"device-{index + 1:02d}"
    site = "north" if index % 2 == 0 else "south"
    return Agent(name=name, site=site, state=folder / "devices" / name, url=f"http://127.0.0.1:{port}")


async def _join(world: World, api: Client, agent: Agent, limit: asyncio.Semaphore) -> None:
    async with limit:
        await _enrol(world, api, agent)
        await world.programs.start(agent.name, *_agent_command("run", "--config", str(agent.state / "agent.toml")))


async def _enrol(world: World, api: Client, agent: Agent) -> None:
    agent.state.mkdir(parents=True)
    invite = await api.invite(agent.name, site=agent.site, labels={"fleet": "demo"})
    path = agent.state / "invite.json"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(msgspec.json.encode(invite))
    await world.programs.run(
        f"enrol-{agent.name}", *_agent_command("enrol", "--invite", str(path), "--state", str(agent.state))
    )
    write_settings(
        agent.state / "agent.toml",
        {
            "state_dir": str(agent.state),
            "http_port": int(agent.url.rsplit(":", 1)[1]),
            "heartbeat_s": 5.0,
            "telemetry_window_s": 10.0,
            "stats_s": 0.5,
            "tick_s": 0.5,
        },
    )


def _agent_command(*arguments: str) -> tuple[str, ...]:
    beside = shutil.which("litefleet-agent", path=os.path.dirname(sys.executable))  # noqa: PTH120 - as shutil takes it
    return (beside or "litefleet-agent", *arguments)


async def _wait_http(programs: Programs, url: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while True:
            programs.check()
            try:
                async with asyncio.timeout(2), session.get(url) as reply:
                    if reply.ok:
                        return
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            if loop.time() > deadline:
                message = f"{url} does not answer after {START_TIMEOUT_S:.0f} s"
                raise UnreachableError(message)
            await asyncio.sleep(_POLL_S)


async def _wait_fleet(world: World) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT_S
    async with world.client() as api:
        while True:
            world.programs.check()
            missing = [d.device_id for d in await api.devices() if d.last_seen_at is None]
            if not missing:
                return
            if loop.time() > deadline:
                message = f"not heard of after {START_TIMEOUT_S:.0f} s: {', '.join(missing)}"
                raise UnreachableError(message)
            await asyncio.sleep(_POLL_S)
