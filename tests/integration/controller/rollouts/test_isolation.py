"""One rollout, or one device, that cannot go on holds up nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest_asyncio

from controller.desired.core.compose import apply, compose, too_large
from controller.dispatch import Dispatch
from controller.rollouts import store
from controller.rollouts.core.types import RolloutStatus
from controller.rollouts.service import RolloutService
from shared.ids import DeviceId, ModelName
from shared.wire import AssignmentStatus, HaltMode
from tests.integration.controller.rollouts.conftest import World, make_world
from tests.support.database import opened_database
from tests.support.fleet_world import OPERATOR, FleetWorld, TestClock, intent
from tests.support.rollout_ports import V1, Fleet, MemoryReleases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from controller.facts import SetRelease
    from shared.ids import RolloutId


class WiredWorld:
    """Rollouts over the real fleet and the real desired state."""

    def __init__(self, fleet: FleetWorld) -> None:
        self.fleet = fleet
        self.rollouts = RolloutService(
            database=fleet.database,
            cohorts=fleet.cohorts,
            releases=MemoryReleases(),
            desires=fleet.desired,
            pulses=fleet.pulse,
        )
        self.dispatch = Dispatch(database=fleet.database, rollouts=self.rollouts, clock=fleet.clock, devices_per_s=1e9)

    async def start(self, **changes: object) -> RolloutId:
        """Start a rollout and dispatch what follows."""
        stored = await self.rollouts.create(World.request(V1, **changes), actor=OPERATOR)
        await self.dispatch.drain()
        return stored.spec.rollout_id

    async def accept(self, rollout: RolloutId) -> None:
        """Accept a wave of which nothing can be said, and dispatch what follows."""
        await self.rollouts.resume(rollout, actor=OPERATOR)
        await self.dispatch.drain()


@pytest_asyncio.fixture
async def wired(database_url: str, tmp_path: Path) -> AsyncIterator[WiredWorld]:
    """A fleet without devices."""
    clock = TestClock()
    async with opened_database(database_url, clock=clock) as database:
        yield WiredWorld(FleetWorld(database, clock, tmp_path))


async def test_label_that_vanished_between_waves_leaves_the_next_wave_empty_and_holds_up_nobody(
    wired: WiredWorld,
) -> None:
    for number in range(3):
        await wired.fleet.device(f"cam-{number}", labels={"ring": "canary"})
    rollout = await wired.start(cohort="ring=canary", waves=("1", "100%"))
    for number in range(3):
        await wired.fleet.fleet.label(f"cam-{number}", {}, actor=OPERATOR)
    await wired.accept(rollout)
    assert wired.rollouts.stuck == {}
    state = (await wired.rollouts.get(rollout)).state
    assert (state.waves[1].complete, state.waves[1].tally.members) == (True, 0)


async def test_device_with_too_many_models_is_rejected_by_name_and_the_others_are_told(wired: WiredWorld) -> None:
    full = await wired.fleet.device("cam-full")
    other = await wired.fleet.device("cam-other")
    many = _as_many_as_fit(full.device_id)
    await wired.fleet.desire(*many)
    rollout = await wired.start(waves=("100%",))
    found = {one.device_id: one for one in await wired.rollouts.assignments(rollout, after=None, limit=10)}
    assert found[full.device_id].status is AssignmentStatus.REJECTED
    assert found[full.device_id].reason.startswith("desired_too_large: ")
    assert found[other.device_id].opened_at is not None
    assert len((await wired.fleet.document(full)).body.models) == len(many)
    assert wired.rollouts.stuck == {}


def _as_many_as_fit(device: DeviceId) -> list[SetRelease]:
    """Return intents that leave no room for another: as many models as fit, then longer names while they fit."""
    names: list[str] = []
    while _fit(device, [*names, f"m{len(names):03d}"]):
        names.append(f"m{len(names):03d}")
    for place, name in enumerate(names):
        longer = [*names[:place], name.ljust(60, "x"), *names[place + 1 :]]
        names = longer if _fit(device, longer) else names
    return [_named(device, name) for name in names]


def _fit(device: DeviceId, names: list[str]) -> bool:
    return not too_large(compose(apply({}, [_named(device, name) for name in names])))


def _named(device: DeviceId, model: str) -> SetRelease:
    return intent(device, "r1", model=ModelName(model))


async def _broken(world: World, rollout: RolloutId) -> None:
    """Make a rollout's counters false, as a fault in the program would."""
    async with world.database.unit_of_work() as uow:
        state = (await store.load_rollout(uow, rollout)).state
        (wave, *rest) = state.waves
        wrong = replace(wave, tally=replace(wave.tally, queued=0, dismissed=wave.tally.queued))
        await store.save_state(uow, replace(state, waves=(wrong, *rest)))


async def test_rollout_whose_counters_are_false_stands_still_alone_and_can_be_aborted(database_url: str) -> None:
    fleet = Fleet()
    async with opened_database(database_url, clock=fleet.clock) as database:
        world = make_world(database, fleet)
        fleet.add(3, prefix="a")
        fleet.add(3, prefix="b")
        broken = await world.start(cohort="ring=a")
        sound = await world.start(cohort="ring=b")
        await _broken(world, broken)
        for rollout in (broken, sound):
            (canary,) = await world.told(rollout)
            await world.send(fleet.report(canary, AssignmentStatus.SUCCEEDED))
        await world.tick(11)
        assert list(world.rollouts.stuck) == [broken]
        assert (await world.state(sound)).waves[0].status == "succeeded"
        assert (await world.state(broken)).waves[0].status == "running"
        await world.rollouts.abort(broken, HaltMode.REVERT, actor=OPERATOR)
        assert fleet.pulses.halted == {broken: HaltMode.REVERT}
        assert (await world.state(broken)).status is RolloutStatus.ROLLING_BACK
