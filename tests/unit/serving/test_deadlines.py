"""A request has until its caller's deadline, or the server's own: after it no answer is given, and no blame."""

from __future__ import annotations

import asyncio
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
from agent.serving.requests import InferRequest, NamedTensor
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
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

GOOD, OTHER = models.one_hot_classifier(), models.one_hot_classifier(shift=1)
MANY = 2_000
"""Rows that no model answers on the loop, however fast it is."""


class Desk:
    """An engine whose models wait while they are told to."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()
        self.rows = 0
        self.engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=self._open))

    def _open(self, _model: bytes, _threads: int) -> Interpreter:
        return DirectedInterpreter(self._answer)

    def _answer(self, items: Tensor) -> Tensor:
        self.begun.set()
        self.go.wait(10)
        self.rows += len(items)
        return items

    def hold(self) -> None:
        """Have every run wait from now on."""
        self.go.clear()
        self.begun.clear()
        self.rows = 0

    async def ask(self, *, within_s: float | None = None, rows: int = MANY) -> Reply:
        """Ask, with so much time."""
        request = InferRequest(inputs=(NamedTensor(name="x", array=np.eye(10, dtype=np.float32)[[3] * rows]),))
        now = time.monotonic()
        caller = Caller(protocol=CallProtocol.OIP, deadline_s=None if within_s is None else now + within_s)
        return await self.engine.answer(Ask(model=MODEL, version=None, request=request, received_s=now, caller=caller))

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
    stable = make_slot(tmp_path, GOOD)
    candidate = make_slot(tmp_path, OTHER, release=CANDIDATE, version=2)
    await desk.engine.apply(plan_of(candidate, stable, serial=2, candidate=CANDIDATE))
    desk.hold()
    for _ in range(3):
        with pytest.raises(DeadlinePassedError):
            await desk.ask(within_s=0.02)
    desk.go.set()
    assert desk.errors(CANDIDATE) == 0
    assert desk.engine.stats().pairs == ()


async def test_request_in_time_is_answered_like_one_without_a_deadline(desk: Desk) -> None:
    assert (await desk.ask(within_s=60.0)).outcome.top == "3"
    assert (await desk.ask(within_s=60.0, rows=1)).outcome.top == "3"
