"""A controller that dies at any moment goes on where it was: everything left to do is in the database."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from controller.dispatch import Dispatch, TokenBucket
from controller.rollouts.core.types import RolloutStatus
from controller.rollouts.service import RolloutService
from controller.ticker import Ticker
from shared.clock import SystemClock
from shared.errors import UnreachableError
from shared.wire import AssignmentStatus, HaltMode
from tests.support.rollout_ports import V1, V2, Fleet, ManualClock
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from controller.db.engine import Database
    from tests.integration.controller.rollouts.conftest import World

_S = AssignmentStatus


def _restarted(database: Database, fleet: Fleet) -> RolloutService:
    return RolloutService(
        database=database, cohorts=fleet.cohorts, releases=fleet.releases, desires=fleet.desires, pulses=fleet.pulses
    )


async def test_dispatch_page_by_page_finds_tells_and_restores_everybody(world: World) -> None:
    world.fleet.add(11)
    await world.complete(V1)
    world.fleet.clock.move(1)
    stored = await world.rollouts.create(world.request(V2, waves=("100%",)), actor="olivia")
    rollout = stored.spec.rollout_id
    touched = [0]
    while touched[-1] is not None:
        # Each page by a controller that has just started.
        world.rollouts = _restarted(world.database, world.fleet)
        touched.append(await world.rollouts.carry_out_next(page=2) or 0)
        if not await world.database.pending("rollout_work", 1):
            break
    assert max(touched) == 2
    assert len(await world.assignments(rollout)) == 11
    while told := await world.told(rollout):
        await world.send(*(world.fleet.report(device, _S.SUCCEEDED) for device in told))
    await world.rollouts.abort(rollout, HaltMode.REVERT, actor="olivia")
    while await world.rollouts.carry_out_next(page=3) is not None:
        pass
    assert {one.release_id for one in world.fleet.desires.intents.values()} == {V1}


async def test_dispatch_that_dies_in_the_middle_tells_nobody_twice_and_forgets_nobody(world: World) -> None:
    world.fleet.add(5)
    world.fleet.clock.move(1)
    stored = await world.rollouts.create(world.request(waves=("100%",)), actor="olivia")
    rollout = stored.spec.rollout_id
    await world.rollouts.carry_out_next()
    world.fleet.desires.fail_next = True
    with pytest.raises(RuntimeError, match="dies here"):
        await world.rollouts.carry_out_next()
    assert await world.told(rollout) == []
    world.rollouts = _restarted(world.database, world.fleet)
    assert await world.rollouts.carry_out_next() == 2
    assert len(world.fleet.desires.history) == 2


async def test_evidence_left_before_a_restart_is_counted_after_it(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start(waves=("1", "100%"))
    (canary,) = await world.told(rollout)
    async with world.database.unit_of_work() as uow:
        await world.rollouts.accept(uow, [world.fleet.report(canary, _S.ROLLED_BACK)])
    assert (await world.state(rollout)).status is RolloutStatus.RUNNING
    world.rollouts = _restarted(world.database, world.fleet)
    assert await world.rollouts.consume_evidence() == 1
    assert await world.rollouts.consume_evidence() == 0
    assert (await world.state(rollout)).status is RolloutStatus.ROLLING_BACK


async def test_dispatch_running_is_woken_by_the_outbox(world: World) -> None:
    world.fleet.add(3)
    dispatch = Dispatch(database=world.database, rollouts=world.rollouts, clock=world.fleet.clock, devices_per_s=1e9)
    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(dispatch.run())
        stored = await world.rollouts.create(world.request(), actor="olivia")
        await wait_until_async(lambda: world.fleet.desires.intents, what="the first device is told")
        loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop
    assert (await world.state(stored.spec.rollout_id)).total.opened == 1


async def test_ticker_ticks_and_outlives_a_database_that_is_away() -> None:
    class Flaky:
        def __init__(self) -> None:
            self.ticks = 0

        async def tick(self) -> None:
            self.ticks += 1
            raise UnreachableError("database is away")

    flaky = Flaky()
    ticker = Ticker({"rollouts": flaky}, interval_s=0.05)
    ticker.start()
    try:
        await wait_until_async(lambda: flaky.ticks >= 3, what="three ticks")
    finally:
        ticker.stop()


def test_token_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    clock = ManualClock()
    bucket = TokenBucket(clock, rate_per_s=10.0, burst=5)
    assert bucket.available() == 5
    bucket.take(5)
    assert bucket.available() == 0
    assert bucket.wait_s() == pytest.approx(0.1)
    clock.move(0.35)
    assert bucket.available() == 3
    clock.move(60)
    assert bucket.available() == 5


def test_token_bucket_with_the_system_clock_starts_full() -> None:
    assert TokenBucket(SystemClock(), rate_per_s=1.0, burst=7).available() == 7
