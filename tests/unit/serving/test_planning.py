from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core.plan import Applied, BootFile, GetStats, Plan, Route, SetPlan, Stats
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.planned.boot import BootLedger
from agent.serving.planned.planning import TRIES_EXHAUSTED, Planner
from shared.ids import BootId, ReleaseId
from tests.support import models
from tests.support.serving import CANDIDATE, MODEL, STABLE, make_slot, plan_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.core.plan import SlotSpec

GOOD = models.one_hot_classifier()


class Start:
    """One start of a serving process over a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "boot.json"
        self.ledger = BootLedger(self.path)
        load = partial(load_slot, cores=1, open_interpreter=open_litert)
        self.engine = Engine(boot_id=BootId("boot"), load=load)
        self.planner = Planner(self.engine, self.ledger)

    def write(self, plan: Plan, *, fallback: Plan, tries_left: int) -> None:
        """Write the boot file."""
        self.path.write_bytes(msgspec.json.encode(BootFile(plan=plan, fallback=fallback, tries_left=tries_left)))

    @property
    def tries_left(self) -> int:
        """What the file says now."""
        boot = self.ledger.read()
        assert boot is not None
        return boot.tries_left

    @property
    def loaded(self) -> set[str]:
        """The releases that can answer or be compared."""
        route = self.engine.routes[MODEL]
        return {each.slot.release_id for each in (route.default.primary, route.default.shadow) if each}


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    made = Start(tmp_path)
    yield made
    await made.engine.close()


@pytest.fixture
def stable(tmp_path: Path) -> SlotSpec:
    return make_slot(tmp_path, GOOD)


@pytest.fixture
def candidate(tmp_path: Path) -> SlotSpec:
    return make_slot(tmp_path, GOOD, release=CANDIDATE, version=2)


async def test_boot_with_a_candidate_spends_a_try_and_loads_it(
    start: Start, stable: SlotSpec, candidate: SlotSpec
) -> None:
    start.write(plan_of(stable, candidate, candidate=CANDIDATE), fallback=plan_of(stable), tries_left=3)
    await start.planner.boot()
    assert start.loaded == {STABLE, CANDIDATE}
    assert start.tries_left == 2


async def test_boot_without_a_candidate_spends_nothing(start: Start, stable: SlotSpec) -> None:
    start.write(plan_of(stable), fallback=plan_of(stable), tries_left=3)
    await start.planner.boot()
    assert start.loaded == {STABLE}
    assert start.tries_left == 3


async def test_boot_without_tries_falls_back(start: Start, stable: SlotSpec, candidate: SlotSpec) -> None:
    start.write(plan_of(stable, candidate, candidate=CANDIDATE), fallback=plan_of(stable, serial=0), tries_left=0)
    await start.planner.boot()
    assert start.loaded == {STABLE}
    assert start.engine.serial == 0


async def test_first_release_without_tries_is_given_up_with_the_fallbacks_reason(
    start: Start, stable: SlotSpec
) -> None:
    nothing = Plan(serial=0, routes=(Route(model=MODEL, primary=None, unavailable_reason="no_previous: crashed"),))
    start.write(plan_of(stable), fallback=nothing, tries_left=0)
    await start.planner.boot()
    assert start.loaded == set()
    assert start.engine.routes[MODEL].reason == "no_previous: crashed"


async def test_boot_without_a_file_leaves_the_word_to_control(start: Start) -> None:
    await start.planner.boot()
    assert start.engine.serial == -1
    assert await start.planner.booted(within_s=0.1)


async def test_boot_that_takes_too_long_is_not_waited_for(start: Start) -> None:
    assert not await start.planner.booted(within_s=0.01)


async def test_plan_of_control_spends_a_try_before_its_candidate_loads(
    start: Start, stable: SlotSpec, candidate: SlotSpec
) -> None:
    await start.planner.boot()
    plan = plan_of(stable, candidate, serial=5, candidate=CANDIDATE)
    start.write(plan, fallback=plan_of(stable), tries_left=3)
    applied = await start.planner.answer(SetPlan(plan=plan))
    assert isinstance(applied, Applied)
    assert [slot.loaded for slot in applied.slots] == [True, True]
    assert start.tries_left == 2
    # Once it is loaded, the same plan costs no further try.
    await start.planner.answer(SetPlan(plan=plan))
    assert start.tries_left == 2


async def test_plan_with_a_candidate_out_of_tries_is_refused_that_candidate_alone(
    start: Start, stable: SlotSpec, candidate: SlotSpec
) -> None:
    await start.planner.boot()
    plan = plan_of(candidate, stable, serial=5, candidate=CANDIDATE)
    start.write(plan, fallback=plan_of(stable), tries_left=0)
    applied = await start.planner.answer(SetPlan(plan=plan))
    assert isinstance(applied, Applied)
    assert [(slot.loaded, slot.error) for slot in applied.slots] == [(False, TRIES_EXHAUSTED), (True, "")]
    assert start.loaded == {STABLE}


async def test_tries_of_another_candidate_do_not_count(start: Start, stable: SlotSpec, candidate: SlotSpec) -> None:
    await start.planner.boot()
    other = ReleaseId("another-candidate")
    start.write(plan_of(stable, candidate=other), fallback=plan_of(stable), tries_left=0)
    applied = await start.planner.answer(SetPlan(plan=plan_of(stable, candidate, candidate=CANDIDATE)))
    assert isinstance(applied, Applied)
    assert [slot.loaded for slot in applied.slots] == [True, True]
    assert start.tries_left == 0


async def test_stats_are_answered_before_anything_is_loaded(start: Start) -> None:
    stats = await start.planner.answer(GetStats())
    assert stats == Stats(boot_id=BootId("boot"))
