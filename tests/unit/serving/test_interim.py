"""Going back does not wait for what another model is loading."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from agent.core.plan import Plan, Route
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.planned.interim import interim
from shared.ids import BootId, ModelName, ReleaseId
from tests.support import models
from tests.support.serving import MODEL, make_slot
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from agent.serving.models.loading import LoadedModel

GOOD = models.one_hot_classifier()
OLD, NEW, OTHER = ReleaseId("old"), ReleaseId("new"), ReleaseId("other")
LETTERS = ModelName("letters")


class Loader:
    """Loads, and holds the loading of one release up."""

    def __init__(self) -> None:
        self.go, self.waits = threading.Event(), False

    def __call__(self, slot: SlotSpec) -> LoadedModel:
        if slot.release_id == OTHER:
            self.waits = True
            assert self.go.wait(10)
        return load_slot(slot, cores=1, open_interpreter=open_litert)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
async def engine(loader: Loader) -> AsyncIterator[Engine]:
    made = Engine(boot_id=BootId("boot"), load=loader)
    yield made
    loader.go.set()
    await made.close()


def route(primary: ReleaseId, shadow: ReleaseId | None = None, *, model: ModelName = MODEL) -> Route:
    return Route(model=model, primary=primary, shadow=shadow, candidate=NEW if shadow else None)


@pytest.fixture
def slots(tmp_path: Path) -> dict[ReleaseId, SlotSpec]:
    old, new = make_slot(tmp_path, GOOD, release=OLD), make_slot(tmp_path, GOOD, release=NEW, version=2)
    return {OLD: old, NEW: new, OTHER: make_slot(tmp_path, GOOD, release=OTHER, name=LETTERS)}


def answering(engine: Engine) -> ReleaseId:
    primary = engine.routes[MODEL].primary
    assert primary is not None
    return primary.slot.release_id


async def test_revert_is_in_force_while_the_plan_before_still_loads(
    engine: Engine, loader: Loader, slots: dict[ReleaseId, SlotSpec]
) -> None:
    both = (slots[OLD], slots[NEW])
    await engine.apply(Plan(serial=1, slots=both, routes=(route(NEW, OLD),)))
    more = Plan(serial=2, slots=tuple(slots.values()), routes=(route(NEW, OLD), route(OTHER, model=LETTERS)))
    back = Plan(serial=3, slots=(slots[OLD], slots[OTHER]), routes=(route(OLD), route(OTHER, model=LETTERS)))
    async with asyncio.TaskGroup() as group:
        loading = group.create_task(engine.apply(more))
        await wait_until_async(lambda: loader.waits)
        reverting = group.create_task(engine.apply(back))
        await wait_until_async(lambda: answering(engine) == OLD, what="the revert is in force")
        assert not loading.done()
        assert LETTERS not in engine.routes
        loader.go.set()
        await loading
        # The plan that was overtaken never is.
        assert answering(engine) == OLD
        applied = await reverting
    assert [slot.loaded for slot in applied.slots] == [True, True]
    assert (engine.serial, set(engine.routes)) == (3, {MODEL, LETTERS})


def test_route_whose_release_is_not_there_stays_as_it_is(slots: dict[ReleaseId, SlotSpec]) -> None:
    in_force = Plan(serial=1, slots=(slots[OLD],), routes=(route(OLD),))
    wanted = Plan(serial=2, slots=(slots[NEW],), routes=(route(NEW), route(OTHER, model=LETTERS)))
    assert interim(wanted, in_force, [OLD]) == in_force


def test_route_that_needs_no_release_is_withheld_at_once(slots: dict[ReleaseId, SlotSpec]) -> None:
    in_force = Plan(serial=1, slots=(slots[OLD],), routes=(route(OLD),))
    withheld = Route(model=MODEL, primary=None, unavailable_reason="halted")
    assert interim(Plan(serial=2, routes=(withheld,)), in_force, [OLD]).routes == (withheld,)
