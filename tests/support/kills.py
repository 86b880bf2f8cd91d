"""Kills processes of a running fleet at drawn moments, measures how long each is missed, and tells what was seen."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from typing_extensions import override

from tests.support.waiting import DeadlineError, seeded_moment, wait_until_async

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from controller.demo.load import Failure, InferenceLoad, Sample
    from controller.demo.world import Agent, World

BACK_WITHIN_S = 20.0
"""A serving process is back in about 2 s on two idle cores; ten times that is broken, however busy the machine."""
OTHERS_BACK_WITHIN_S = 60.0
"""For the rest nobody waits but rollouts; a controller needs 2 s of CPU to start, and was seen to get them in 15."""
NOTICED_S = 1.0
"""How much later than the process died, or was back, a busy client may write down that its request failed."""
_TAIL_LINES = 15


class Kind(StrEnum):
    """What can be killed."""

    CONTROLLER = "controller"
    BROKER = "broker"
    SUPERVISOR = "supervisor"
    CONTROL = "control"
    SERVING = "serving"


OF_DEVICE = frozenset({Kind.SUPERVISOR, Kind.CONTROL, Kind.SERVING})


@dataclass(slots=True, kw_only=True)
class Kill:
    """One kill, and when what it ended was back."""

    kind: Kind
    rollout: str
    at_s: float
    """Of the event loop's clock, as failures of requests are."""
    agent: Agent | None = None
    control: int | None = None
    """The device's control process before the kill."""
    connections: int = 0
    """How often the controller had reached the broker before the kill."""
    back_after_s: float | None = None

    @override
    def __str__(self) -> str:
        """Tell it in a line."""
        where = f" of {self.agent.name}" if self.agent else ""
        back = f"back after {self.back_after_s:.2f} s" if self.back_after_s is not None else "not back"
        return f"{self.at_s:10.2f} s  {self.kind}{where} in {self.rollout}: {back}"


class Killer:
    """Kills until every kind had its share, a little at a time: `hunt` lasts as long as one rollout."""

    def __init__(self, world: World, generator: random.Random, *, sample: Sample, share: int) -> None:
        self._world, self._generator, self._sample, self._share = world, generator, sample, share
        self.kills: list[Kill] = []

    @property
    def missing(self) -> Counter[Kind]:
        """How many kills of each kind are still to come."""
        done = Counter(kill.kind for kill in self.kills)
        return +Counter({kind: self._share - done[kind] for kind in Kind})

    async def hunt(self, rollout: str, *, ended: asyncio.Event, at_most: int, between_s: tuple[float, float]) -> None:
        """Kill at drawn moments until the rollout has ended; each kill is watched until what it ended is back."""
        spent: Counter[str] = Counter()
        async with asyncio.TaskGroup() as watches:
            for _ in range(at_most):
                await seeded_moment(self._generator, between_s=between_s)
                missing = self.missing
                if ended.is_set() or not missing:
                    return
                kind = self._generator.choice(sorted(missing.elements()))
                agent = self._victim(spent) if kind in OF_DEVICE else None
                if kind in OF_DEVICE and agent is None:
                    continue
                kill = await self._kill(kind, agent, rollout)
                if kill is not None:
                    self.kills.append(kill)
                    watches.create_task(self._watch(kill))

    def _victim(self, spent: Counter[str]) -> Agent | None:
        """Choose a device that was hit less than twice in this rollout.

        A candidate under which serving or its trial ended three times is given up (`boot_tries`): nobody can tell a
        kill from a crash. So that the right end of a good release stays success, a device is hit twice at most.
        """
        able = [agent for agent in self._world.agents if spent[agent.name] < 2]
        if not able:
            return None
        agent = self._generator.choice(able)
        spent[agent.name] += 1
        return agent

    async def _kill(self, kind: Kind, agent: Agent | None, rollout: str) -> Kill | None:
        """Kill; where no parent starts it again, play the service manager's part. None if it was not running."""
        control = pid_of(agent, Kind.CONTROL) if agent else None
        kill = Kill(
            kind=kind,
            rollout=rollout,
            at_s=asyncio.get_running_loop().time(),
            agent=agent,
            control=control,
            connections=self._connections(),
        )
        if agent is None or kind is Kind.SUPERVISOR:
            await self._world.programs.kill_and_restart(agent.name if agent else kind.value)
            return kill
        pid = pid_of(agent, kind)
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        return kill

    async def _watch(self, kill: Kill) -> None:
        within_s = BACK_WITHIN_S if kill.kind is Kind.SERVING else OTHERS_BACK_WITHIN_S
        try:
            await wait_until_async(lambda: self._is_back(kill), within_s=within_s, what=str(kill))
        except DeadlineError:
            return  # stays "not back", which the test looks at
        kill.back_after_s = asyncio.get_running_loop().time() - kill.at_s

    async def _is_back(self, kill: Kill) -> bool:
        """Whether what was killed does its work again, as its users see it."""
        match kill.kind:
            case Kind.CONTROLLER:
                return await answers(f"{self._world.api_url}/healthz")
            case Kind.BROKER:
                return self._connections() > kill.connections
            case Kind.SERVING:
                return kill.agent is not None and await classifies(kill.agent, self._sample)
            case Kind.SUPERVISOR | Kind.CONTROL:
                now = pid_of(kill.agent, Kind.CONTROL) if kill.agent is not None else None
                return now is not None and now != kill.control

    def _connections(self) -> int:
        log = self._world.folder / "logs" / "controller.log"
        return log.read_bytes().count(b'"broker_connected"') if log.exists() else 0


async def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    try:
        async with asyncio.timeout(5), aiohttp.ClientSession() as session, session.get(url) as reply:
            return reply.ok
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def classifies(agent: Agent, sample: Sample) -> bool:
    """Whether a device answers a picture."""
    url = f"{agent.url}/v2/models/digits/classify"
    try:
        async with (
            asyncio.timeout(BACK_WITHIN_S),
            aiohttp.ClientSession() as session,
            session.post(url, data=sample.png, headers={"Content-Type": "image/png"}) as reply,
        ):
            return reply.ok
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def pid_of(agent: Agent, kind: Kind) -> int | None:
    """Return the process of a device that does this part, if it runs just now."""
    module = {Kind.SUPERVISOR: "agent", Kind.CONTROL: "agent.control", Kind.SERVING: "agent.serving.process"}[kind]
    config = str(agent.state / "agent.toml")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if module in words and config in words:
                found.append(int(entry.name))
    return max(found, default=None)


def unexplained(load: InferenceLoad, kills: Sequence[Kill]) -> list[Failure]:
    """Return the failed requests that no kill of that very device's serving process explains."""
    served = [(k.agent.url, k.at_s, k.back_after_s) for k in kills if k.kind is Kind.SERVING and k.agent is not None]
    return [
        failure
        for failure in load.tally.failures
        if not any(
            url == failure.url and at_s <= failure.at_s <= at_s + (back_s or 0.0) + NOTICED_S
            for url, at_s, back_s in served
        )
    ]


def tails(world: World, names: Sequence[str]) -> str:
    """Return the ends of programs' logs."""
    parts = []
    for name in names:
        path = world.folder / "logs" / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if path.exists() else ["(no log)"]
        parts.append("\n".join([f"--- {name}", *(line[:400] for line in lines)]))
    return "\n".join(parts)


def figures(kills: Sequence[Kill]) -> dict[str, str]:
    """Return for each kind how many kills there were, and how long what was killed was missed."""
    told = {}
    for kind in Kind:
        times = sorted(k.back_after_s for k in kills if k.kind is kind and k.back_after_s is not None)
        if times:
            median = times[len(times) // 2]
            told[f"killed_{kind}"] = (
                f"{len(times)} times, back after {median:.2f} s (median), {times[-1]:.2f} s (longest)"
            )
    return told
