from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from agent.core.plan import Plan, Route
from agent.serving.engine import Engine
from agent.serving.errors import ModelUnavailableError, QueueFullError
from agent.serving.exchange import Ask
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.models.workers import QUEUE_LENGTH
from agent.serving.requests import InferRequest, NamedTensor
from shared.errors import ModelFailedError, NotFoundError, PipelineError
from shared.ids import BootId, ModelName
from tests.support import models
from tests.support.interpreters import DirectedInterpreter
from tests.support.serving import CANDIDATE, MODEL, STABLE, make_slot, one_hot, plan_of
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.core.plan import PairStats, SeriesStats, SlotSpec
    from agent.serving.exchange import Reply
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

GOOD = models.one_hot_classifier()
SHIFTED = models.one_hot_classifier(shift=1)


class Breakable:
    """A model that loads well, and breaks when told to."""

    is_broken = False

    def __call__(self, items: Tensor) -> Tensor:
        if self.is_broken:
            raise RuntimeError("out of order")
        return items


class Bench:
    """An engine whose models can be replaced by directed ones, by their bytes."""

    def __init__(self) -> None:
        self.directed: dict[bytes, Callable[[Tensor], Tensor]] = {}
        self.opened: list[bytes] = []
        self.engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=self._open))

    def _open(self, model: bytes, threads: int) -> Interpreter:
        self.opened.append(model)
        if model in self.directed:
            return DirectedInterpreter(self.directed[model])
        return open_litert(model, threads)

    async def ask(self, *rows: list[float], version: str | None = None, model: str = MODEL) -> Reply:
        """Ask, and finish as a protocol does."""
        request = InferRequest(inputs=(NamedTensor(name="input", array=np.array(rows, np.float32)),))
        ask = Ask(model=ModelName(model), version=version, request=request, received_s=time.monotonic())
        reply = await self.engine.answer(ask)
        self.engine.finish(reply, ready_s=time.monotonic())
        return reply

    def series(self, release: str) -> SeriesStats:
        """What was measured of a release."""
        return next(each for each in self.engine.stats().series if each.release_id == release)

    def counts(self, release: str) -> dict[str, int]:
        """What was counted of a release, whatever it answered."""
        counts = self.series(release).counts
        return {name: count for name, count in counts.items() if not name.startswith("classes")}

    async def pairs(self, count: int) -> PairStats:
        """Wait until so many pairs were counted."""
        await wait_until_async(
            lambda: bool(self.engine.stats().pairs) and self.engine.stats().pairs[0].counts.pairs >= count
        )
        return self.engine.stats().pairs[0]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.engine.close()


@pytest.fixture
def stable(tmp_path: Path) -> SlotSpec:
    return make_slot(tmp_path, GOOD)


@pytest.fixture
def candidate(tmp_path: Path) -> SlotSpec:
    return make_slot(tmp_path, SHIFTED, release=CANDIDATE, version=2)


def best(reply: Reply) -> str:
    return reply.outcome.top


async def test_plan_is_converged_on_and_answers(bench: Bench, stable: SlotSpec) -> None:
    applied = await bench.engine.apply(plan_of(stable, serial=4))
    assert (applied.serial, applied.boot_id) == (4, "boot")
    assert [(slot.loaded, slot.error) for slot in applied.slots] == [(True, "")]
    assert best(await bench.ask(one_hot(3))) == "3"


async def test_same_plan_again_loads_nothing_again(bench: Bench, stable: SlotSpec) -> None:
    await bench.engine.apply(plan_of(stable))
    opened = len(bench.opened)
    await bench.engine.apply(plan_of(stable, serial=2))
    assert len(bench.opened) == opened


async def test_models_are_unavailable_before_the_first_plan_and_unknown_after_it(
    bench: Bench, stable: SlotSpec
) -> None:
    with pytest.raises(ModelUnavailableError, match="starting"):
        await bench.ask(one_hot(1))
    await bench.engine.apply(plan_of(stable))
    with pytest.raises(NotFoundError):
        await bench.ask(one_hot(1), model="other")


@pytest.mark.parametrize("name", ["model.tflite", "manifest.json"])
async def test_damaged_file_is_never_opened_and_its_route_falls_back(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec, tmp_path: Path, name: str
) -> None:
    path = tmp_path / CANDIDATE / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    applied = await bench.engine.apply(plan_of(candidate, stable, candidate=CANDIDATE))
    assert not applied.slots[0].loaded
    assert applied.slots[0].error.startswith("digest_mismatch")
    assert set(bench.opened) == {GOOD}
    assert best(await bench.ask(one_hot(3))) == "3"


async def test_missing_release_leaves_its_model_unavailable_with_the_reason(bench: Bench, stable: SlotSpec) -> None:
    gone = msgspec.structs.replace(stable, folder=f"{stable.folder}-gone")
    await bench.engine.apply(plan_of(gone))
    with pytest.raises(ModelUnavailableError, match="cannot be read"):
        await bench.ask(one_hot(3))


async def test_release_of_another_model_is_refused(bench: Bench, stable: SlotSpec) -> None:
    wrong = msgspec.structs.replace(stable, model=ModelName("other"))
    applied = await bench.engine.apply(plan_of(wrong))
    assert applied.slots[0].error.startswith("untrusted")


async def test_model_without_primary_is_unavailable_with_the_plans_reason(bench: Bench) -> None:
    await bench.engine.apply(Plan(serial=1, routes=(Route(model=MODEL, primary=None, unavailable_reason="halted"),)))
    with pytest.raises(ModelUnavailableError, match="halted"):
        await bench.ask(one_hot(3))


async def test_swap_lets_the_old_release_finish_what_it_began(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    go, begun = threading.Event(), threading.Event()

    def wait(items: Tensor) -> Tensor:
        begun.set()
        go.wait(10)
        return items

    bench.directed[GOOD] = wait
    go.set()
    await bench.engine.apply(plan_of(stable))
    old = bench.engine.routes[MODEL].primary
    go.clear()
    begun.clear()
    # The probe found it fast; as if it were not, so that it runs in a thread.
    many = [one_hot(3)] * 2_000
    async with asyncio.TaskGroup() as group:
        running = group.create_task(bench.ask(*many))
        await wait_until_async(begun.is_set)
        await bench.engine.apply(plan_of(candidate, serial=2))
        assert best(await bench.ask(one_hot(3))) == "4"
        assert old is not None
        assert not old.is_closed
        go.set()
        assert best(await running) == "3"
    assert old.is_closed
    assert old.instance is not None
    assert old.instance.join(timeout_s=5)


async def test_full_queue_refuses_and_says_when_to_come_again(bench: Bench, stable: SlotSpec) -> None:
    go = threading.Event()

    def wait(items: Tensor) -> Tensor:
        go.wait(10)
        return items

    bench.directed[GOOD] = wait
    go.set()
    await bench.engine.apply(plan_of(stable))
    go.clear()
    many = [one_hot(3)] * 2_000
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(bench.ask(*many)) for _ in range(QUEUE_LENGTH + 1)]
        primary = bench.engine.routes[MODEL].primary
        await wait_until_async(lambda: primary is not None and primary.waiting == QUEUE_LENGTH)
        with pytest.raises(QueueFullError) as caught:
            await bench.ask(*many)
        assert caught.value.retry_after_s >= 1
        go.set()
    assert all(best(task.result()) == "3" for task in waiting)
    assert bench.counts(STABLE) == {"requests": QUEUE_LENGTH + 2, "request_errors": 0, "request_refusals": 1}


async def test_shadow_is_compared_on_the_same_requests_and_answers_nobody(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    await bench.engine.apply(plan_of(stable, candidate, candidate=CANDIDATE))
    for number in range(8):
        assert best(await bench.ask(one_hot(number))) == str(number)
    pair = await bench.pairs(8)
    assert (pair.candidate, pair.stable) == (CANDIDATE, STABLE)
    assert (pair.counts.pairs, pair.counts.flips, pair.counts.candidate_errors) == (8, 8, 0)
    assert bench.series(CANDIDATE).counts["requests"] == 0
    assert bench.series(CANDIDATE).sketches["invoke_ms"].count == 8
    with pytest.raises(NotFoundError):
        await bench.ask(one_hot(1), version="2")


async def test_evidence_goes_on_when_the_candidate_comes_to_answer(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    await bench.engine.apply(plan_of(stable, candidate, candidate=CANDIDATE))
    await bench.ask(one_hot(1))
    await bench.pairs(1)
    await bench.engine.apply(plan_of(candidate, stable, serial=2, candidate=CANDIDATE))
    assert best(await bench.ask(one_hot(1))) == "2"
    pair = await bench.pairs(2)
    assert (pair.candidate, pair.counts.flips) == (CANDIDATE, 2)
    assert best(await bench.ask(one_hot(1), version="1")) == "1"


async def test_shadow_without_candidate_is_not_run(bench: Bench, stable: SlotSpec, candidate: SlotSpec) -> None:
    await bench.engine.apply(plan_of(stable, candidate))
    await bench.ask(one_hot(1))
    assert bench.engine.stats().pairs == ()


async def test_candidate_that_breaks_in_the_shadow_is_counted_and_nobody_notices(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    broken = Breakable()
    bench.directed[SHIFTED] = broken
    await bench.engine.apply(plan_of(stable, candidate, candidate=CANDIDATE))
    broken.is_broken = True
    assert best(await bench.ask(one_hot(1))) == "1"
    assert (await bench.pairs(1)).counts.candidate_errors == 1


async def test_candidate_that_breaks_while_it_answers_is_stood_in_for_by_stable(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    broken = Breakable()
    bench.directed[SHIFTED] = broken
    await bench.engine.apply(plan_of(candidate, stable, candidate=CANDIDATE))
    broken.is_broken = True
    reply = await bench.ask(one_hot(1))
    assert (best(reply), reply.rescued, reply.instance.slot.release_id) == ("1", True, STABLE)
    assert (await bench.pairs(1)).counts.candidate_errors == 1
    assert bench.counts(CANDIDATE) == {"requests": 1, "request_errors": 1, "request_refusals": 0}
    assert bench.counts(STABLE) == {"requests": 1, "request_errors": 0, "request_refusals": 0}


async def test_stable_that_no_plan_names_any_more_still_stands_in_for_a_candidate_that_breaks(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    go, begun = threading.Event(), threading.Event()
    go.set()

    def break_late(items: Tensor) -> Tensor:
        if not go.is_set():
            begun.set()
            go.wait(10)
            raise RuntimeError("out of order")
        return items

    bench.directed[SHIFTED] = break_late
    await bench.engine.apply(plan_of(candidate, stable, candidate=CANDIDATE))
    go.clear()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(bench.ask(*[one_hot(3)] * 2_000))
        await wait_until_async(begun.is_set)
        await bench.engine.apply(plan_of(candidate, serial=2))
        go.set()
        async with asyncio.timeout(10):
            reply = await running
    assert (best(reply), reply.rescued, reply.instance.is_closed) == ("3", True, True)


async def test_first_release_that_breaks_fails_its_requests(bench: Bench, candidate: SlotSpec) -> None:
    broken = Breakable()
    bench.directed[SHIFTED] = broken
    await bench.engine.apply(plan_of(candidate, candidate=CANDIDATE))
    broken.is_broken = True
    with pytest.raises(ModelFailedError, match="out of order"):
        await bench.ask(one_hot(1))
    assert bench.counts(CANDIDATE) == {"requests": 1, "request_errors": 1, "request_refusals": 0}


async def test_wrong_request_is_the_callers_error_and_nobodys_evidence(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    await bench.engine.apply(plan_of(candidate, stable, candidate=CANDIDATE))
    with pytest.raises(PipelineError, match="shape") as caught:
        await bench.ask([1.0, 2.0])
    assert not isinstance(caught.value, ModelFailedError)
    assert bench.counts(CANDIDATE) == {"requests": 1, "request_errors": 0, "request_refusals": 1}
    assert bench.engine.stats().pairs == ()


async def test_candidate_that_no_longer_takes_what_stable_takes_is_to_blame(
    bench: Bench, stable: SlotSpec, tmp_path: Path
) -> None:
    other = make_slot(tmp_path, models.one_hot_classifier(4), release=CANDIDATE, version=2)
    await bench.engine.apply(plan_of(other, stable, candidate=CANDIDATE))
    assert best(await bench.ask(one_hot(7))) == "7"
    assert (await bench.pairs(1)).counts.candidate_errors == 1


async def test_two_equal_releases_are_equally_fast(bench: Bench, stable: SlotSpec, tmp_path: Path) -> None:
    twin = make_slot(tmp_path, GOOD, release=CANDIDATE, version=2)
    await bench.engine.apply(plan_of(stable, twin, candidate=CANDIDATE))
    for round_number in range(20):
        # As many as may wait for the shadow, so that none is dropped.
        for number in range(8):
            await bench.ask(one_hot(number))
        await bench.pairs(8 * (round_number + 1))
    counts = (await bench.pairs(160)).counts
    assert counts.flips == 0
    assert counts.slower < 40


async def test_batches_of_a_model_with_a_fixed_batch_are_run_row_by_row(bench: Bench, stable: SlotSpec) -> None:
    await bench.engine.apply(plan_of(stable))
    reply = await bench.ask(one_hot(3), one_hot(5))
    assert reply.outcome.outputs[0].array.argmax(axis=1).tolist() == [3, 5]


async def test_stats_grow_and_survive_the_release_that_they_are_of(
    bench: Bench, stable: SlotSpec, candidate: SlotSpec
) -> None:
    await bench.engine.apply(plan_of(stable))
    for _ in range(5):
        await bench.ask(one_hot(3))
    await bench.engine.apply(plan_of(candidate, serial=2))
    measured = bench.series(STABLE)
    assert measured.counts["requests"] == 5
    assert {name: sketch.count for name, sketch in measured.sketches.items()} == {
        "latency_ms": 5,
        "invoke_ms": 5,
        "confidence": 5,
    }


def test_small_fast_model_is_answered_on_the_loop_and_has_one_worker_for_the_rest(stable: SlotSpec) -> None:
    loaded = load_slot(stable, cores=4, open_interpreter=open_litert)
    assert loaded.inline is not None
    assert len(loaded.workers) == 1
