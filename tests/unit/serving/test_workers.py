"""The queue before the workers: what waits, what is joined, what is dropped, and what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.serving.errors import QueueFullError
from agent.serving.models.batching import Batcher
from agent.serving.models.lane import Lane
from agent.serving.models.workers import QUEUE_BYTES, QUEUE_LENGTH, Workers
from agent.serving.requests import InferRequest, NamedTensor, Outcome
from shared.pipeline import MODEL_ONLY
from tests.support.interpreters import DirectedInterpreter
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from agent.serving.models.batching import Answered

    Tensor = NDArray[Any]


class Desk:
    """One worker whose model waits until it is let go, and what it answered."""

    def __init__(self, *, least_ms: float = 0.0) -> None:
        self.go, self.sizes = threading.Event(), list[int]()
        self.begun = threading.Event()
        self.answers: list[Answered] = []

        def answer(items: Tensor) -> Tensor:
            self.sizes.append(len(items))
            self.begun.set()
            self.go.wait(10)
            return items

        def lane() -> Lane:
            return Lane(MODEL_ONLY, DirectedInterpreter(answer))

        batcher = Batcher(lane(), {4: lane()}, {1: 1.0, 4: 1.1})
        loop = asyncio.get_running_loop()
        self.workers = Workers([batcher], name="desk", loop=loop, run_ms=1.0, least_ms=least_ms)

    async def occupy(self) -> None:
        """Have the worker busy with a request."""
        self.ask(0)
        await wait_until_async(self.begun.is_set)

    def ask(self, position: int, *, deadline_s: float = float("inf"), alone: bool = False, width: int = 10) -> None:
        """Submit one row."""
        row = np.eye(width, dtype=np.float32)[[position]]
        request = InferRequest(inputs=(NamedTensor(name="x", array=row),))
        self.workers.submit(request, self.answers.append, deadline_s=deadline_s, alone=alone)

    async def tops(self, count: int) -> list[str]:
        """Let the model go, and return the best answers when there are so many."""
        self.go.set()
        await wait_until_async(lambda: len(self.answers) >= count)
        return [each.top for each in self.answers if isinstance(each, Outcome)]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    made.go.set()
    made.workers.close()


async def test_requests_that_wait_are_answered_together_when_the_worker_is_free(desk: Desk) -> None:
    await desk.occupy()
    for position in (1, 2, 3):
        desk.ask(position)
    assert await desk.tops(4) == ["0", "1", "2", "3"]
    assert desk.sizes == [1, 4]


async def test_request_that_finds_the_worker_free_waits_for_nobody(desk: Desk) -> None:
    desk.go.set()
    desk.ask(3)
    assert await desk.tops(1) == ["3"]
    assert desk.sizes == [1]


async def test_requests_of_another_form_and_those_that_run_alone_keep_their_turn(desk: Desk) -> None:
    await desk.occupy()
    desk.ask(1)
    desk.ask(2, alone=True)
    desk.ask(3)
    desk.ask(4, alone=True)
    assert await desk.tops(5) == ["0", "1", "3", "2", "4"]
    assert desk.sizes == [1, 4, 1, 1]


async def test_request_whose_deadline_passed_in_the_queue_is_never_run(desk: Desk) -> None:
    await desk.occupy()
    desk.ask(1, deadline_s=time.monotonic())
    desk.ask(2)
    desk.ask(3, deadline_s=time.monotonic())
    assert await desk.tops(2) == ["0", "2"]
    desk.ask(4)
    assert await desk.tops(3) == ["0", "2", "4"]
    assert sum(desk.sizes) == 3


async def test_request_that_cannot_be_answered_in_time_is_not_begun() -> None:
    desk = Desk(least_ms=60_000.0)
    await desk.occupy()
    desk.ask(1, deadline_s=time.monotonic() + 30)
    desk.ask(2)
    assert await desk.tops(2) == ["0", "2"]
    desk.workers.close()


async def test_full_queue_refuses_and_what_is_late_in_it_makes_room(desk: Desk) -> None:
    await desk.occupy()
    soon_s = time.monotonic() + 0.2
    for number in range(QUEUE_LENGTH):
        desk.ask(number % 10, deadline_s=soon_s if number % 2 else float("inf"))
    with pytest.raises(QueueFullError) as refusal:
        desk.ask(1)
    assert refusal.value.retry_after_s >= 1
    await wait_until_async(lambda: time.monotonic() > soon_s)
    desk.ask(1)
    assert desk.workers.waiting == QUEUE_LENGTH // 2 + 1


async def test_attack_large_requests_fill_the_queue_by_their_bytes(desk: Desk) -> None:
    await desk.occupy()
    large = InferRequest(inputs=(NamedTensor(name="x", array=np.zeros((QUEUE_BYTES // 60, 10), np.float32)),))
    assert QUEUE_BYTES // 2 < large.size_bytes < QUEUE_BYTES
    desk.workers.submit(large, desk.answers.append)
    with pytest.raises(QueueFullError):
        desk.workers.submit(large, desk.answers.append)
    desk.ask(2)
    assert await desk.tops(3) == ["0", "0", "2"]
    desk.workers.submit(large, desk.answers.append)
    await desk.tops(4)


async def test_request_larger_than_the_queue_may_wait_alone(desk: Desk) -> None:
    await desk.occupy()
    rows = np.zeros((QUEUE_BYTES // 40 + 1, 10), np.float32)
    desk.workers.submit(InferRequest(inputs=(NamedTensor(name="x", array=rows),)), desk.answers.append)
    with pytest.raises(QueueFullError):
        desk.ask(1)
    assert await desk.tops(2) == ["0", "0"]


async def test_closed_workers_finish_what_waits_and_end(desk: Desk) -> None:
    await desk.occupy()
    desk.ask(1)
    desk.workers.close()
    assert await desk.tops(2) == ["0", "1"]
    assert desk.workers.join(timeout_s=5)


def _is_long(answers: list[Answered], count: int) -> bool:
    return len(answers) >= count


async def test_worker_that_was_idle_last_takes_the_next_request() -> None:
    ran: list[str] = []
    answers: list[Answered] = []

    def answer(items: Tensor) -> Tensor:
        ran.append(threading.current_thread().name)
        return items

    batchers = [Batcher(Lane(MODEL_ONLY, DirectedInterpreter(answer)), {}, {}) for _ in range(3)]
    workers = Workers(batchers, name="three", loop=asyncio.get_running_loop(), run_ms=1.0)
    row = InferRequest(inputs=(NamedTensor(name="x", array=np.eye(10, dtype=np.float32)[:1]),))
    for _ in range(5):
        await wait_until_async(lambda: workers.idle == len(batchers))
        asked = len(answers) + 1
        workers.submit(row, answers.append)
        await wait_until_async(partial(_is_long, answers, asked))
    workers.close()
    assert len(ran) == 5
    assert len(set(ran)) == 1
    assert workers.join(timeout_s=5)
