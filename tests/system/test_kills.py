"""Kill -9 of every process at seeded random moments of rollouts: they still end right, and inference goes on.

At least ten kills of each kind. What may fail: requests to the very device whose serving process was killed, until it
is back. Nothing else.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from controller.demo.load import read_samples
from controller.demo.processes import Programs
from controller.demo.screen import Screen
from controller.demo.story import POLICY, Story
from controller.demo.world import World, build
from shared.clock import SystemClock
from shared.errors import UnreachableError
from tests.support.kills import Killer, figures, tails, unexplained
from tests.support.waiting import DeadlineError, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TypeVar

    from controller.client import Client
    from controller.demo.load import InferenceLoad
    from controller.views import ReleaseView, RolloutView

    T = TypeVar("T")

DEVICES = 4
SHARE = 10
"""Kills of each kind."""
MOST_ROLLOUTS = 25
KILLS_A_ROLLOUT = 6
BETWEEN_S = (0.5, 2.5)
"""Between two kills: a rollout here takes 10 to 20 s, and nothing needs longer than 3 s to be back."""
SEED = 20261122
ENDS_WITHIN_S = 150.0
"""A rollout under kills takes some 20 s on two idle cores; the machine may be busy with other tests."""
ENDED = frozenset({"completed", "aborted", "rolled_back"})


@dataclass(slots=True, kw_only=True)
class Siege:
    """A fleet under load and under kills, and what it went through."""

    world: World
    story: Story
    api: Client
    killer: Killer
    load: InferenceLoad
    rollouts: int = 0
    newest: str = ""
    """Id of the rollout started last."""
    notes: list[str] = field(default_factory=list)

    async def roll_out(self, release: ReleaseView) -> RolloutView:
        """Roll a release out while the killer is loose, and return how it ended."""
        self.rollouts += 1
        name = f"rollout {self.rollouts} ({release.name})"
        started = await self.patient(lambda: self.api.start_rollout(order(release)))
        self.newest = started.rollout_id
        ended = asyncio.Event()
        late: DeadlineError | None = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                self.killer.hunt(name, ended=ended, at_most=KILLS_A_ROLLOUT, between_s=BETWEEN_S), name="killer"
            )
            try:
                await wait_until_async(lambda: self.has_ended(started.rollout_id), within_s=ENDS_WITHIN_S, what=name)
            except DeadlineError as exc:
                late = exc
            finally:
                ended.set()
        if late is not None:
            raise late
        found = await self.patient(lambda: self.api.rollout(started.rollout_id))
        self.notes.append(f"{name}: {found.state}  {found.explanation or found.reason}")
        return found

    async def has_ended(self, rollout_id: str) -> bool:
        """Whether a rollout has come to its end; a controller that is just being started again says nothing."""
        try:
            return (await self.api.rollout(rollout_id)).state in ENDED
        except UnreachableError:
            return False

    async def patient(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what the API says, as soon as there is a controller to say it."""
        answers: list[T] = []

        async def answered() -> bool:
            try:
                answers.append(await call())
            except UnreachableError:
                return False
            return True

        await wait_until_async(answered, within_s=30, what="the controller answers")
        return answers[-1]

    async def runs_everywhere(self, release: ReleaseView) -> None:
        """Wait until every device has told that this release is its stable one, and no other is under way."""

        async def settled() -> bool:
            return not await self.patient(lambda: self.story.running_everywhere(release))

        await wait_until_async(settled, within_s=60, what=f"{release.name} runs everywhere")

    async def story_so_far(self) -> str:
        """Return what happened, for whoever has to find out why."""
        shares: list[str] = []
        try:
            found = await self.api.assignments(self.newest)
            shares = [f"  {share.device_id}: {share.status} {share.reason}" for share in found]
        except UnreachableError:
            shares = ["  (the controller does not answer)"]
        logs = tails(self.world, ["controller", *(agent.name for agent in self.world.agents)])
        kills = [str(kill) for kill in self.killer.kills]
        return "\n".join(["", *self.notes, *shares, "kills:", *kills, str(figures(self.killer.kills)), logs])


def order(release: ReleaseView) -> dict[str, object]:
    """Return a rollout in two waves, with the demo's gates."""
    return {
        "release_id": release.release_id,
        "cohort": "fleet=demo",
        "waves": ["1", "100%"],
        "soak_s": 1.0,
        "on_failure": "revert",
        "wave_deadline_s": ENDS_WITHIN_S,
        "override_blacklist": True,
        "policy": POLICY,
    }


async def besiege(siege: Siege, first: ReleaseView, second: ReleaseView, wrong: ReleaseView) -> None:
    """Roll out the two good releases in turn, and the wrong one now and then, until enough was killed."""
    stable, other = second, first
    while siege.killer.missing and siege.rollouts < MOST_ROLLOUTS:
        if siege.rollouts % 4 == 2:
            bad = await siege.roll_out(wrong)
            assert bad.state == "rolled_back", bad.explanation or bad.reason
            assert sum(wave.activated for wave in bad.waves) <= 1
        else:
            stable, other = other, stable
            good = await siege.roll_out(stable)
            assert good.state == "completed", good.explanation or good.reason
        await siege.runs_everywhere(stable)


def check_books(siege: Siege, wrong: ReleaseView) -> None:
    """Look at what clients got, and at every kill."""
    failures = unexplained(siege.load, siege.killer.kills)
    assert failures == []
    assert siege.load.tally.by_version.get(str(wrong.version_number), 0) == 0
    assert siege.load.tally.accuracy() > 0.85
    assert [str(kill) for kill in siege.killer.kills if kill.back_after_s is None] == []
    assert siege.killer.missing == {}
    assert siege.load.tally.requests > 100 * SHARE


async def releases(story: Story, trained: Path) -> tuple[ReleaseView, ReleaseView, ReleaseView]:
    """Make two good releases and a wrong one."""
    first, second, wrong = [(await story.release(trained / name))[0] for name in ("v1", "v2", "wrong")]
    return first, second, wrong


@pytest.mark.timeout(1200)
async def test_rollouts_under_kills_reach_their_right_end_and_inference_goes_on(
    tmp_path: Path, trained: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    programs = Programs(tmp_path)
    screen = Screen(SystemClock())
    try:
        world = await build(tmp_path, programs, devices=DEVICES, screen=screen)
        async with world.client() as api, asyncio.TaskGroup() as tasks:
            story = Story(world=world, api=api, screen=screen, clock=SystemClock())
            first, second, wrong = await releases(story, trained)
            await story.roll_out(first)
            samples = trained / "v1" / "client.npz"
            load = story.start_load(tasks, samples)
            killer = Killer(world, random.Random(SEED), sample=read_samples(samples)[0], share=SHARE)
            siege = Siege(world=world, story=story, api=api, killer=killer, load=load)
            try:
                await besiege(siege, first, second, wrong)
                check_books(siege, wrong)
            except AssertionError as exc:
                exc.add_note(await siege.story_so_far())
                raise
            finally:
                load.stop()
        for name, told in figures(killer.kills).items():
            record_testsuite_property(name, told)
        record_testsuite_property("load", f"{load.tally.requests} requests, {load.tally.failed} failed")
        record_testsuite_property("rollouts", siege.rollouts)
    finally:
        await programs.stop()
