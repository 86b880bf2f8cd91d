"""Kill -9 of every process at seeded random moments of rollouts: they still end right, and inference goes on.

At least ten kills of each kind. What may fail: requests to the very device whose serving process was killed, for a few
seconds. Nothing else.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.demo.processes import Programs
from controller.demo.school import School
from controller.demo.screen import Screen
from controller.demo.story import Story
from controller.demo.world import Agent, World, build
from shared.clock import SystemClock
from tests.support.waiting import seeded_moment

if TYPE_CHECKING:
    from controller.demo.load import InferenceLoad

DEVICES = 6
ROLLOUTS = 10
KINDS = ("controller", "broker", "supervisor", "control", "serving")
SEED = 20261122
BACK_WITHIN_S = 8.0
"""Two busy cores need about 2 s to start a serving process; four times that is not "within seconds"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill that happened."""

    kind: str
    at_s: float
    url: str | None


def pid_of(agent: Agent, module: str) -> int | None:
    """Return the newest process of `agent` that runs `module`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if module in words and any(str(agent.state) in word for word in words):
            found.append(int(entry.name))
    return max(found, default=None)


async def kill_once(world: World, kind: str, agent: Agent) -> Kill | None:
    """Kill one process of a kind; a service manager's part (restarting it) is played here where no parent does."""
    now = asyncio.get_running_loop().time
    match kind:
        case "controller" | "broker":
            at = now()
            await world.programs.kill_and_restart(kind)
            return Kill(kind=kind, at_s=at, url=None)
        case "supervisor":
            at = now()
            await world.programs.kill_and_restart(agent.name)
            return Kill(kind=kind, at_s=at, url=None)
        case _:
            pid = pid_of(agent, "agent.control" if kind == "control" else "agent.serving.process")
            if pid is None:  # killed a moment ago and not yet started again
                return None
            os.kill(pid, signal.SIGKILL)
            return Kill(kind=kind, at_s=now(), url=agent.url if kind == "serving" else None)


async def killer(world: World, generator: random.Random, plan: list[str], kills: list[Kill]) -> None:
    """Kill what `plan` lists, at random moments of the rollout that is running."""
    while plan:
        await seeded_moment(generator, between_s=(0.3, 2.5))
        kill = await kill_once(world, plan[-1], generator.choice(world.agents))
        if kill is not None:
            kills.append(kill)
            plan.pop()


def excused(load: InferenceLoad, kills: list[Kill]) -> list[str]:
    """Return the failures that no kill of that very device's serving process explains."""
    return [
        f"{failure.url} at {failure.at_s:.1f}: {failure.remark}"
        for failure in load.tally.failures
        if not any(
            kill.url == failure.url and kill.at_s - 1 <= failure.at_s <= kill.at_s + BACK_WITHIN_S for kill in kills
        )
    ]


@pytest.mark.timeout(1200)
async def test_rollouts_under_kills_reach_their_right_end_and_inference_goes_on(tmp_path: Path) -> None:
    generator = random.Random(SEED)
    clock = SystemClock()
    screen = Screen(clock)
    kills: list[Kill] = []
    programs = Programs(tmp_path)
    school = School(programs, tmp_path)
    try:
        world = await build(tmp_path, programs, devices=DEVICES, screen=screen)
        await school.train_all()
        async with world.client() as api, asyncio.TaskGroup() as tasks:
            story = Story(world=world, api=api, screen=screen, clock=clock)
            folder = await school.trained("v1")
            first, _ = await story.release(folder)
            second, _ = await story.release(await school.trained("v2"))
            await story.roll_out(first)
            load = story.start_load(tasks, folder / "client.npz")
            for turn in range(ROLLOUTS):
                release = first if turn % 2 else second
                plan = generator.sample(KINDS, len(KINDS))
                hunt = tasks.create_task(killer(world, generator, plan, kills))
                episode = await story.roll_out(release)
                await hunt
                assert episode.rollout.state == "completed", episode.rollout.explanation
            load.stop()
    finally:
        await programs.stop()
    assert excused(load, kills) == []
    assert all(count >= 10 for count in Counter(kill.kind for kill in kills).values())
    assert load.tally.requests > 1000
