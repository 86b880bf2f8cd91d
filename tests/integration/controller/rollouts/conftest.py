"""A rollout service on each of the two databases, with its neighbours in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest_asyncio

import controller.rollouts.tables  # noqa: F401 - its tables are created with the database
from controller.dispatch import Dispatch
from controller.rollouts import store
from controller.rollouts.core.invariants import AssignmentFact, RolloutWorld, check_all
from controller.rollouts.service import RolloutService
from controller.rollouts.spec import Assignment, RolloutRequest
from shared.wire import TERMINAL, AssignmentStatus, HaltMode, ProbationPolicy
from tests.support.database import opened_database
from tests.support.rollout_ports import V1, Fleet, SentReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from controller.db.engine import Database
    from controller.rollouts.core.types import RolloutState
    from shared.ids import DeviceId, ReleaseId, RolloutId


@dataclass(kw_only=True)
class World:
    """A controller's rollouts, and the fleet around them."""

    database: Database
    fleet: Fleet
    rollouts: RolloutService
    dispatch: Dispatch

    @staticmethod
    def request(release: ReleaseId = V1, **changes: object) -> RolloutRequest:
        """Return a rollout over everybody, quick to soak."""
        values: dict[str, object] = {
            "release_id": release,
            "cohort": "all",
            "waves": ("1", "25%", "100%"),
            "soak_s": 10.0,
            "on_failure": HaltMode.REVERT,
            "policy": ProbationPolicy(),
            "wave_deadline_s": 3600.0,
            "unreachable_after_s": 300.0,
            "override_blacklist": False,
        }
        return RolloutRequest(**{**values, **changes})  # type: ignore[arg-type] # a test names the fields it means

    async def start(self, release: ReleaseId = V1, **changes: object) -> RolloutId:
        """Start a rollout and dispatch what follows."""
        # Ids sort by age in milliseconds.
        self.fleet.clock.move(1)
        stored = await self.rollouts.create(self.request(release, **changes), actor="olivia")
        await self.dispatch.drain()
        return stored.spec.rollout_id

    async def send(self, *reports: SentReport) -> None:
        """Bring reports in, as the ingest does, and dispatch what follows."""
        async with self.database.unit_of_work() as uow:
            await self.rollouts.accept(uow, reports)
        await self.dispatch.drain()

    async def tick(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        self.fleet.clock.move(seconds)
        await self.rollouts.tick()
        await self.dispatch.drain()

    async def state(self, rollout_id: RolloutId) -> RolloutState:
        """Return how a rollout stands."""
        return (await self.rollouts.get(rollout_id)).state

    async def assignments(self, rollout_id: RolloutId) -> dict[DeviceId, Assignment]:
        """Return all assignments."""
        found = await self.rollouts.assignments(rollout_id, after=None, limit=10_000)
        return {one.device_id: one for one in found}

    async def told(self, rollout_id: RolloutId) -> list[DeviceId]:
        """Return the devices that were told and have no result."""
        every = await self.assignments(rollout_id)
        return [d for d, one in every.items() if one.opened_at is not None and one.status not in TERMINAL]

    async def succeed_wave(self, rollout_id: RolloutId) -> None:
        """Let every told device succeed until the wave is through, soak included."""
        while told := await self.told(rollout_id):
            self.fleet.see_all()
            await self.send(*(self.fleet.report(device, AssignmentStatus.SUCCEEDED) for device in told))
        self.fleet.see_all()
        await self.tick(11)

    async def succeed_one(self, rollout_id: RolloutId) -> None:
        """Let the devices told now succeed, and their wave soak."""
        told = await self.told(rollout_id)
        await self.send(*(self.fleet.report(device, AssignmentStatus.SUCCEEDED) for device in told))
        await self.tick(11)

    async def complete(self, release: ReleaseId = V1) -> RolloutId:
        """Bring a release to everybody."""
        rollout_id = await self.start(release, waves=("100%",))
        await self.succeed_wave(rollout_id)
        return rollout_id

    async def check(self) -> None:
        """Recount every rollout from its rows."""
        assert self.rollouts.stuck == {}
        worlds = []
        async with self.database.unit_of_work(read_only=True) as uow:
            for stored in await store.rollouts_page(uow, None, 100):
                rules = stored.spec.request.rules
                rows = await store.assignments_page(uow, stored.spec.rollout_id, None, 10_000)
                facts = tuple(
                    AssignmentFact(device=one.device_id, wave=one.wave, facts=one.core_facts(rules)) for one in rows
                )
                worlds.append(RolloutWorld(model=stored.spec.model, state=stored.state, assignments=facts))
        check_all(worlds)


def make_world(database: Database, fleet: Fleet) -> World:
    """Wire a rollout service, as a starting controller does."""
    rollouts = RolloutService(
        database=database,
        cohorts=fleet.cohorts,
        releases=fleet.releases,
        desires=fleet.desires,
        pulses=fleet.pulses,
    )
    dispatch = Dispatch(database=database, rollouts=rollouts, clock=fleet.clock, devices_per_s=1e9)
    return World(database=database, fleet=fleet, rollouts=rollouts, dispatch=dispatch)


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """A rollout service with an empty fleet; afterwards every counter must be true."""
    fleet = Fleet()
    async with opened_database(database_url, clock=fleet.clock) as database:
        made = make_world(database, fleet)
        yield made
        await made.check()
