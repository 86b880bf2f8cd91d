"""A request has until its caller's deadline, or the server's own: after it no answer is given, and no blame."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.serving.engine import Engine
from agent.serving.errors import DeadlinePassedError
from agent.serving.exchange import Ask, Caller, CallProtocol
from agent.serving.models.loading import load_slot
from agent.serving.models.probing import INLINE_MS
from agent.serving.models.resident import Asleep
from agent.serving.requests import InferRequest, NamedTensor
from agent.serving.traffic.turns import LEAST_RUNS, PATIENCE, RESCUE_DEADLINE_S, Turn, turn_beside
from shared.ids import BootId
from tests.support import models
from tests.support.interpreters import DirectedInterpreter
from tests.support.serving import CANDIDATE, MODEL, STABLE, make_slot, plan_of
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.serving.exchange import Reply
    from agent.serving.models.resident import Resident
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

GOOD, OTHER = models.one_hot_classifier(), models.one_hot_classifier(shift=1)
MANY = 2_000
"""Rows that no model answers on the loop, however fast it is."""


def question(now_s: float, *, within_s: float | None = None, rows: int) -> Ask:
    """A request that is read now, with so much time."""
    request = InferRequest(inputs=(NamedTensor(name="x", array=np.eye(10, dtype=np.float32)[[3] * rows]),))
    caller = Caller(protocol=CallProtocol.OIP, deadline_s=None if within_s is None else now_s + within_s)
    return Ask(model=MODEL, version=None, request=request, received_s=now_s, caller=caller)


class Desk:
    """An engine whose models wait while they are told to."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()
        self.rows = 0
        self._held: bytes | None = None
        self.engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=self._open))

    def _open(self, model: bytes, _threads: int) -> Interpreter:
        return DirectedInterpreter(partial(self._answer, model))

    def _answer(self, model: bytes, items: Tensor) -> Tensor:
        if self._held in {None, model}:
            self.begun.set()
            self.go.wait(10)
        self.rows += len(items)
        return items

    def hold(self, model: bytes | None = None) -> None:
        """Have every run wait from now on, or every run of one model."""
        self._held = model
        self.go.clear()
        self.begun.clear()
        self.rows = 0

    async def ask(self, *, within_s: float | None = None, rows: int = MANY) -> Reply:
        """Ask, with so much time."""
        return await self.engine.answer(question(time.monotonic(), within_s=within_s, rows=rows))

    async def try_out(self, folder: Path) -> None:
        """Have a candidate answer, with stable at its side."""
        stable = make_slot(folder, GOOD)
        candidate = make_slot(folder, OTHER, release=CANDIDATE, version=2)
        await self.engine.apply(plan_of(candidate, stable, serial=2, candidate=CANDIDATE))

    @property
    def both(self) -> tuple[Resident, Resident]:
        """Stable and the candidate at whose side it is."""
        line = self.engine.routes[MODEL].default
        assert line.shadow is not None
        assert line.primary is not None
        return line.shadow, line.primary

    @property
    def few(self) -> int:
        """As few rows as no model answers on the loop."""
        return math.ceil(4 * INLINE_MS / min(each.probe_ms for each in self.both))

    def turn(self, *, within_s: float | None, rows: int = 1) -> Turn:
        """What the candidate would get of a request's time."""
        stable, candidate = self.both
        line, now_s = self.engine.routes[MODEL].default, time.monotonic()
        ask = question(now_s, within_s=within_s, rows=rows)
        return turn_beside(stable, candidate, ask=ask, line=line, now_s=now_s)

    def errors(self, release: str) -> int:
        """Failures that a release was blamed for."""
        (series,) = [each for each in self.engine.stats().series if each.release_id == release]
        return series.counts["request_errors"]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk()
    await made.engine.apply(plan_of(make_slot(tmp_path, GOOD)))
    yield made
    made.go.set()
    await made.engine.close()


async def test_request_whose_deadline_has_passed_is_refused_before_it_runs(desk: Desk) -> None:
    desk.rows = 0
    for rows in (1, MANY):
        with pytest.raises(DeadlinePassedError) as refusal:
            await desk.ask(within_s=0.0, rows=rows)
        assert refusal.value.retry_after_s >= 1
    assert (desk.rows, desk.errors(STABLE)) == (0, 0)


async def test_request_whose_deadline_passes_in_the_queue_is_told_then_and_never_run(desk: Desk) -> None:
    desk.hold()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(desk.ask())
        await wait_until_async(desk.begun.is_set)
        with pytest.raises(DeadlinePassedError):
            await desk.ask(within_s=0.05)
        desk.go.set()
        await first
    await desk.ask()
    assert desk.rows == 2 * MANY


async def test_answer_that_comes_after_the_deadline_is_not_given_and_nobody_is_blamed(desk: Desk) -> None:
    desk.hold()
    with pytest.raises(DeadlinePassedError):
        await desk.ask(within_s=0.05)
    desk.go.set()
    assert (await desk.ask()).outcome.top == "3"
    assert desk.errors(STABLE) == 0


async def test_attack_short_deadlines_are_no_evidence_against_a_candidate(desk: Desk, tmp_path: Path) -> None:
    await desk.try_out(tmp_path)
    desk.hold()
    for _ in range(3):
        with pytest.raises(DeadlinePassedError):
            await desk.ask(within_s=0.02)
    desk.go.set()
    assert desk.errors(CANDIDATE) == 0
    assert desk.engine.stats().pairs == ()


async def test_candidate_that_hangs_is_stood_in_for_before_the_deadline_and_to_blame(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.try_out(tmp_path)
    desk.hold(OTHER)
    reply = await desk.ask(within_s=1.0, rows=desk.few)
    assert (reply.rescued, reply.instance.slot.release_id) == (True, STABLE)
    assert desk.errors(CANDIDATE) == 1
    assert [each.counts.candidate_errors for each in desk.engine.stats().pairs] == [1]


async def test_attack_large_request_ahead_of_others_is_no_evidence_against_a_candidate(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.try_out(tmp_path)
    desk.hold(OTHER)
    async with asyncio.TaskGroup() as group:
        large = group.create_task(desk.ask(rows=math.ceil(1000 / PATIENCE / desk.both[0].probe_ms)))
        await wait_until_async(desk.begun.is_set)
        reply = await desk.ask(within_s=1.0, rows=desk.few)
        desk.go.set()
        assert not (await large).rescued
    assert (reply.rescued, desk.errors(CANDIDATE)) == (True, 0)
    assert desk.engine.stats().pairs == ()


async def test_candidate_that_both_are_too_slow_for_is_not_to_blame(desk: Desk, tmp_path: Path) -> None:
    await desk.try_out(tmp_path)
    desk.hold()
    with pytest.raises(DeadlinePassedError):
        await desk.ask(within_s=0.6, rows=desk.few)
    assert desk.errors(CANDIDATE) == 0
    assert desk.engine.stats().pairs == ()


async def test_turn_of_a_candidate_is_half_of_the_callers_time_where_that_is_plenty(desk: Desk, tmp_path: Path) -> None:
    await desk.try_out(tmp_path)
    usual = Turn(within_s=RESCUE_DEADLINE_S)
    for within_s in (2.0, 8.0):
        turn = desk.turn(within_s=within_s)
        assert turn.within_s == pytest.approx(within_s / 2)
        assert turn.is_evidence
    assert desk.turn(within_s=12.0) == desk.turn(within_s=None) == desk.turn(within_s=0.4) == usual
    rows = math.ceil(1000 / LEAST_RUNS / desk.both[0].probe_ms)
    assert desk.turn(within_s=1.9, rows=rows) == usual
    assert desk.turn(within_s=2.2, rows=rows).within_s == pytest.approx(1.1)


async def test_candidate_that_has_to_be_loaded_first_is_not_to_blame_for_the_time(desk: Desk, tmp_path: Path) -> None:
    await desk.try_out(tmp_path)
    gone = desk.both[1].sleep(Asleep.IDLE)
    assert gone is not None
    turn = desk.turn(within_s=2.0)
    assert turn.within_s == pytest.approx(1.0)
    assert not turn.is_evidence


async def test_request_in_time_is_answered_like_one_without_a_deadline(desk: Desk) -> None:
    assert (await desk.ask(within_s=60.0)).outcome.top == "3"
    assert (await desk.ask(within_s=60.0, rows=1)).outcome.top == "3"
