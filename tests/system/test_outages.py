"""What a fleet stands on goes away in the middle of a rollout: it serves on, loses nothing, and ends right."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from controller.client import ApiError, Client
from controller.demo.processes import Programs
from controller.demo.screen import Screen
from controller.demo.story import POLICY, Story
from controller.demo.world import World, build
from shared.clock import SystemClock
from tests.support.kills import tails
from tests.support.postgres import Postgres
from tests.support.waiting import DeadlineError, seeded_moment, wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from controller.demo.load import InferenceLoad
    from controller.views import ReleaseView, RolloutView

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

DEVICES = 3
SEED = 20261123
DATABASE_AWAY_S = 60.0
BROKER_AWAY_S = 10.0
ENDS_WITHIN_S = 180.0
"""Devices wait up to two minutes before they try a broker again that was long away."""


@dataclass(slots=True, kw_only=True)
class Fleet:
    """A fleet that runs its first release and could run a second."""

    server: Postgres
    world: World
    story: Story
    api: Client
    releases: tuple[ReleaseView, ReleaseView]
    samples: Path

    async def next_release(self) -> ReleaseView:
        """Return the release that the fleet does not run."""
        first, second = self.releases
        return second if await self.story.running_everywhere(first) == [] else first

    async def begin(self, release: ReleaseView) -> RolloutView:
        """Start a rollout, and return when its first device has activated the release and others have not."""
        started = await self.api.start_rollout(
            {
                "release_id": release.release_id,
                "cohort": "fleet=demo",
                "waves": ["1", "100%"],
                "soak_s": 3.0,
                "on_failure": "revert",
                "wave_deadline_s": ENDS_WITHIN_S,
                "policy": POLICY,
            }
        )

        async def underway() -> bool:
            return any(wave.activated for wave in (await self.api.rollout(started.rollout_id)).waves)

        await wait_until_async(underway, within_s=60, what="the first device has activated the release")
        return started

    async def completed(self, started: RolloutView, release: ReleaseView) -> None:
        """Wait until a rollout is completed and every device runs its release."""

        async def ended() -> bool:
            found = await self.api.rollout(started.rollout_id)
            assert found.state not in {"aborted", "rolled_back"}, found.explanation
            return found.state == "completed"

        try:
            await wait_until_async(ended, within_s=ENDS_WITHIN_S, what=f"rollout of {release.name} completed")
            assert await self.story.running_everywhere(release) == []
        except DeadlineError as exc:
            shares = await self.api.assignments(started.rollout_id)
            exc.add_note("\n".join(f"{a.device_id}: {a.status} {a.reason}" for a in shares))
            exc.add_note(tails(self.world, ["controller", *(agent.name for agent in self.world.agents)]))
            raise
        statuses = {share.status for share in await self.api.assignments(started.rollout_id)}
        assert statuses == {"succeeded"}

    @property
    def controller_log(self) -> str:
        """What the controller wrote so far."""
        return (self.world.folder / "logs" / "controller.log").read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(server: Postgres, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Three devices that run the first release, and a controller on PostgreSQL."""
    folder = tmp_path_factory.mktemp("fleet")
    programs = Programs(folder)
    screen = Screen(SystemClock())
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("LITEFLEET_CONTROLLER_DATABASE_URL", server.create_database())
            world = await build(folder, programs, devices=DEVICES, screen=screen)
        async with world.client() as api:
            story = Story(world=world, api=api, screen=screen, clock=SystemClock())
            first, _ = await story.release(trained / "v1")
            second, _ = await story.release(trained / "v2")
            await story.roll_out(first)
            samples = trained / "v1" / "client.npz"
            yield Fleet(server=server, world=world, story=story, api=api, releases=(first, second), samples=samples)
    finally:
        await programs.stop()


async def test_database_away_for_a_minute_in_a_rollout_stops_nothing_and_loses_nothing(fleet: Fleet) -> None:
    release = await fleet.next_release()
    async with asyncio.TaskGroup() as tasks:
        load = fleet.story.start_load(tasks, fleet.samples)
        try:
            started = await fleet.begin(release)
            before = [decision.reason for decision in await fleet.api.decisions(started.rollout_id)]
            fleet.server.stop()
            with pytest.raises(ApiError) as refused:
                await fleet.api.rollout(started.rollout_id)
            await seeded_moment(random.Random(SEED), between_s=(DATABASE_AWAY_S, DATABASE_AWAY_S))
            await asyncio.to_thread(fleet.server.start)
            await wait_until_async(lambda: _knows(fleet.api), within_s=30, what="the controller answers again")
            await fleet.completed(started, release)
        finally:
            load.stop()
    assert (refused.value.http_status, refused.value.reason) == (503, "unreachable")
    after = [decision.reason for decision in await fleet.api.decisions(started.rollout_id)]
    assert after[: len(before)] == before
    _nobody_noticed(load)
    fleet.world.programs.check()
    assert "loop_failed" not in fleet.controller_log


async def test_broker_away_in_a_rollout_and_back_without_its_memory_is_made_good(fleet: Fleet) -> None:
    release = await fleet.next_release()
    async with asyncio.TaskGroup() as tasks:
        load = fleet.story.start_load(tasks, fleet.samples)
        try:
            started = await fleet.begin(release)
            broker = await fleet.world.programs.kill("broker")
            saved = list((fleet.world.controller_state / "broker" / "data").iterdir())
            for path in saved:
                path.unlink()
            await seeded_moment(random.Random(SEED), between_s=(BROKER_AWAY_S, BROKER_AWAY_S))
            await fleet.world.programs.start("broker", *broker.command)
            await fleet.completed(started, release)
        finally:
            load.stop()
    _nobody_noticed(load)
    assert "broker_lost_its_memory" in fleet.controller_log


async def _knows(api: Client) -> bool:
    try:
        return bool(await api.rollouts())
    except ApiError:
        return False


def _nobody_noticed(load: InferenceLoad) -> None:
    assert load.tally.failures == []
    assert load.tally.requests > 100
