"""Which releases stay in memory: a budget, who goes first, who never goes, and how whoever sleeps is woken."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.core.plan import Plan, Route
from agent.serving.engine import Engine
from agent.serving.errors import ModelUnavailableError, QueueFullError
from agent.serving.exchange import Ask
from agent.serving.models import residency
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.models.residency import Limits
from agent.serving.models.workers import QUEUE_LENGTH
from agent.serving.protocols import standing
from agent.serving.requests import InferRequest, NamedTensor
from shared.ids import BootId, ModelName, ReleaseId
from tests.support import models
from tests.support.serving import make_slot, one_hot
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.core.plan import Applied, SlotSpec
    from agent.serving.exchange import Reply
    from agent.serving.models.loading import LoadedModel
    from agent.serving.models.resident import Resident

GOOD = models.one_hot_classifier()
NAMES = ("first", "second", "third")


class Bench:
    """An engine with limits, and slots of small models that it loads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loads: list[str] = []
        self.before_load: Callable[[SlotSpec], None] = lambda _slot: None
        self.engines: list[Engine] = []

    def engine(self, limits: Limits) -> Engine:
        """Make one; it is closed at the end."""
        made = Engine(boot_id=BootId("boot"), load=self._load, limits=limits)
        self.engines.append(made)
        return made

    def _load(self, slot: SlotSpec) -> LoadedModel:
        self.loads.append(slot.model)
        self.before_load(slot)
        return partial(load_slot, cores=1, open_interpreter=open_litert)(slot)

    def slot(self, name: str, *, version: int = 1) -> SlotSpec:
        """A release of a model of its own."""
        release = ReleaseId(f"{name}-{version}")
        return make_slot(self.folder, GOOD, release=release, version=version, name=ModelName(name))

    def hold_loading(self, go: threading.Event) -> None:
        """Have every loading wait until `go` is set."""

        def wait(_slot: SlotSpec) -> None:
            assert go.wait(10)

        self.before_load = wait

    @property
    def each_bytes(self) -> int:
        """What one of these models takes, as it is reckoned."""
        return 2 * residency.needed_bytes(self.slot("size"))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for engine in made.engines:
        await engine.close()


def plan_of(*slots: SlotSpec, serial: int = 1) -> Plan:
    routes = tuple(Route(model=slot.model, primary=slot.release_id) for slot in slots)
    return Plan(serial=serial, slots=slots, routes=routes)


async def ask(engine: Engine, name: str) -> Reply:
    tensor = NamedTensor(name="input", array=np.array([one_hot(3)], np.float32))
    asked = Ask(
        model=ModelName(name), version=None, request=InferRequest(inputs=(tensor,)), received_s=time.monotonic()
    )
    reply = await engine.answer(asked)
    engine.finish(reply, ready_s=time.monotonic())
    return reply


def resident(engine: Engine, name: str) -> Resident:
    found = engine.routes[ModelName(name)].primary
    assert found is not None
    return found


def awake(engine: Engine) -> set[str]:
    return {str(name) for name in engine.routes if resident(engine, name).instance is not None}


def states(engine: Engine) -> dict[str, tuple[str, str]]:
    return {entry.name: (entry.state, entry.reason) for entry in standing.index(engine, ready_only=False)}


async def full(bench: Bench, *, room_for: int = 2, recent_s: float = 0.0) -> tuple[Engine, Applied]:
    """Three models in a budget for fewer."""
    engine = bench.engine(Limits(memory_bytes=room_for * bench.each_bytes, recent_s=recent_s))
    applied = await engine.apply(plan_of(*(bench.slot(name) for name in NAMES)))
    return engine, applied


async def test_plan_beyond_the_budget_is_loaded_and_the_one_unused_longest_sleeps(bench: Bench) -> None:
    engine, applied = await full(bench)
    assert [(slot.loaded, slot.asleep) for slot in applied.slots] == [(True, "evicted"), (True, ""), (True, "")]
    assert awake(engine) == {"second", "third"}
    assert states(engine)["first"] == ("UNAVAILABLE", "evicted")
    assert states(engine)["third"] == ("READY", "")


async def test_model_that_sleeps_is_ready_since_it_will_answer(bench: Bench) -> None:
    engine, _ = await full(bench)
    standing.check_ready(engine)
    assert {entry.name for entry in standing.index(engine, ready_only=True)} == {"second", "third"}


async def test_request_wakes_its_model_and_the_least_recently_used_makes_room(bench: Bench) -> None:
    engine, _ = await full(bench)
    await ask(engine, "third")
    await ask(engine, "second")
    assert (await ask(engine, "first")).outcome.top == "3"
    assert awake(engine) == {"first", "second"}
    assert bench.loads == ["first", "second", "third", "first"]


async def test_model_that_has_answered_recently_is_not_evicted_and_the_caller_hears_why(bench: Bench) -> None:
    engine, _ = await full(bench, recent_s=60.0)
    await ask(engine, "second")
    await ask(engine, "third")
    with pytest.raises(ModelUnavailableError, match="memory_budget") as caught:
        await ask(engine, "first")
    assert "model_memory_bytes" in str(caught.value)
    assert awake(engine) == {"second", "third"}


async def test_model_with_a_request_in_flight_is_not_evicted(bench: Bench) -> None:
    engine, _ = await full(bench)
    with resident(engine, "second").used(), resident(engine, "third").used():
        with pytest.raises(ModelUnavailableError):
            await ask(engine, "first")
        assert awake(engine) == {"second", "third"}
    await ask(engine, "first")


async def test_candidate_and_its_stable_are_never_evicted(bench: Bench) -> None:
    engine = bench.engine(Limits(memory_bytes=2 * bench.each_bytes, recent_s=0.0))
    stable, candidate, other = bench.slot("first"), bench.slot("first", version=2), bench.slot("other")
    compared = Route(
        model=stable.model, primary=stable.release_id, shadow=candidate.release_id, candidate=candidate.release_id
    )
    routes = (compared, Route(model=other.model, primary=other.release_id))
    applied = await engine.apply(Plan(serial=1, slots=(stable, candidate, other), routes=routes))
    assert [slot.loaded for slot in applied.slots] == [True, True, False]
    assert applied.slots[2].error.startswith("memory_budget: ")
    line = engine.routes[stable.model].default
    assert [each is not None and each.instance is not None for each in (line.primary, line.shadow)] == [True, True]


async def test_sleeping_stable_is_woken_when_a_candidate_comes_to_be_compared_with_it(bench: Bench) -> None:
    engine = bench.engine(Limits(memory_bytes=3 * bench.each_bytes, idle_unload_s=0.05, recent_s=0.0))
    stable, candidate = bench.slot("first"), bench.slot("first", version=2)
    await engine.apply(plan_of(stable))
    async with asyncio.TaskGroup() as group:
        resting = group.create_task(engine.unload_idle())
        await wait_until_async(lambda: awake(engine) == set(), what="the idle model is unloaded")
        compared = Route(
            model=stable.model, primary=stable.release_id, shadow=candidate.release_id, candidate=candidate.release_id
        )
        applied = await engine.apply(Plan(serial=2, slots=(stable, candidate), routes=(compared,)))
        assert [(slot.loaded, slot.asleep) for slot in applied.slots] == [(True, ""), (True, "")]
        resting.cancel()


async def test_model_that_no_budget_could_hold_is_refused_by_name(bench: Bench) -> None:
    engine = bench.engine(Limits(memory_bytes=1024))
    applied = await engine.apply(plan_of(bench.slot("first")))
    assert not applied.slots[0].loaded
    assert applied.slots[0].error.startswith("memory_budget: it needs")


async def test_idle_model_is_unloaded_and_says_so_and_the_next_request_loads_it(bench: Bench) -> None:
    engine = bench.engine(Limits(idle_unload_s=0.05))
    slot = bench.slot("first")
    await engine.apply(plan_of(slot))
    async with asyncio.TaskGroup() as group:
        resting = group.create_task(engine.unload_idle())
        await wait_until_async(lambda: awake(engine) == set(), what="the idle model is unloaded")
        resting.cancel()
    assert states(engine)["first"] == ("UNAVAILABLE", "unloaded_idle")
    assert (await engine.apply(plan_of(slot, serial=2))).slots[0].asleep == "unloaded_idle"
    standing.check_ready(engine)
    assert (await ask(engine, "first")).outcome.top == "3"
    assert states(engine)["first"] == ("READY", "")


async def test_model_is_never_unloaded_while_no_setting_says_so(bench: Bench) -> None:
    engine = bench.engine(Limits())
    await engine.apply(plan_of(bench.slot("first")))
    assert residency.idle([resident(engine, "first")], Limits(), pinned=frozenset()) == []


async def sleeping(bench: Bench) -> Engine:
    """An engine whose only model has been evicted."""
    engine, _ = await full(bench)
    return engine


async def test_callers_who_come_together_wait_for_one_loading(bench: Bench) -> None:
    engine, go = await sleeping(bench), threading.Event()
    bench.hold_loading(go)
    loads = len(bench.loads)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(ask(engine, "first")) for _ in range(20)]
        await wait_until_async(lambda: len(bench.loads) == loads + 1)
        go.set()
    assert {task.result().outcome.top for task in waiting} == {"3"}
    assert len(bench.loads) == loads + 1


async def test_caller_who_gives_up_takes_the_loading_from_nobody(bench: Bench) -> None:
    engine, go = await sleeping(bench), threading.Event()
    bench.hold_loading(go)
    loads = len(bench.loads)
    async with asyncio.TaskGroup() as group:
        impatient, patient = group.create_task(ask(engine, "first")), group.create_task(ask(engine, "first"))
        await wait_until_async(lambda: len(bench.loads) == loads + 1)
        impatient.cancel()
        go.set()
        assert (await patient).outcome.top == "3"
    assert len(bench.loads) == loads + 1


async def test_more_callers_than_a_queue_holds_are_sent_away_while_it_loads(bench: Bench) -> None:
    engine, go = await sleeping(bench), threading.Event()
    bench.hold_loading(go)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(ask(engine, "first")) for _ in range(QUEUE_LENGTH)]
        await wait_until_async(lambda: resident(engine, "first").is_busy)
        with pytest.raises(QueueFullError):
            await ask(engine, "first")
        go.set()
    assert {task.result().outcome.top for task in waiting} == {"3"}


async def test_model_whose_file_was_damaged_meanwhile_is_unavailable_with_the_reason(bench: Bench) -> None:
    engine = await sleeping(bench)
    path = Path(bench.slot("first").folder) / "model.tflite"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(ModelUnavailableError, match="digest_mismatch"):
        await ask(engine, "first")
    loads = len(bench.loads)
    # It is known for a while, and no caller has the file read again.
    with pytest.raises(ModelUnavailableError, match="digest_mismatch"):
        await ask(engine, "first")
    assert len(bench.loads) == loads
    assert states(engine)["first"][0] == "UNAVAILABLE"
    assert states(engine)["first"][1].startswith("digest_mismatch")
    with pytest.raises(ModelUnavailableError):
        standing.check_ready(engine)
    # A plan is a reason to look again.
    path.write_bytes(whole)
    applied = await engine.apply(plan_of(*(bench.slot(name) for name in NAMES), serial=2))
    assert applied.slots[0].loaded
    assert (await ask(engine, "first")).outcome.top == "3"


async def test_model_that_a_plan_drops_while_it_wakes_still_answers_who_waits(bench: Bench) -> None:
    engine, go = await sleeping(bench), threading.Event()
    bench.hold_loading(go)
    first = resident(engine, "first")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ask(engine, "first"))
        await wait_until_async(lambda: first.is_busy)
        await engine.apply(plan_of(bench.slot("second"), serial=2))
        go.set()
        assert (await waiting).outcome.top == "3"
    assert first.is_closed


async def test_model_that_was_dropped_while_it_answered_gives_its_memory_back_afterwards(bench: Bench) -> None:
    engine = bench.engine(Limits(idle_unload_s=0.2))
    await engine.apply(plan_of(bench.slot("first")))
    first = resident(engine, "first")
    instance = weakref.ref(first.instance) if first.instance is not None else None
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(engine.unload_idle())
        with first.used():
            await engine.apply(plan_of(bench.slot("second"), serial=2))
        del first
        assert instance is not None
        await wait_until_async(lambda: instance() is None)
        looking.cancel()


def test_default_budget_is_a_share_of_the_memory() -> None:
    assert 64 * 2**20 < residency.default_budget_bytes() < 2**44
