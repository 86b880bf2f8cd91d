"""What counting costs a request: `python -m tests.bench.metrics`. Not run by the tests; needs a quiet machine.

CPU time of the quietest of many runs, less an empty call: what `Series.answered` takes, counting the rows in included,
and what `Observer.answered` adds for a release that is watched for drift and of which 1 % is written down.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import timeit
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.serving.recording.recorder import Series
from agent.serving.recording.request_log import RequestLog
from shared.clock import SystemClock
from shared.request_log import LogConsent, LogWish
from shared.runtime import drift
from tests.support.serving import MODEL, one_hot, plan_of
from tests.support.waiting import wait_until
from tests.support.watching import BOOT, ask, watched_slot, watching_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.serving.exchange import Reply
    from agent.serving.recording.observation import Observer

CALLS, RUNS = 20_000, 15
GOAL_US = 2.0


def took_us(call: Callable[[], object]) -> float:
    """CPU time of a call, less that of an empty one; neighbours on the machine only ever make it longer."""

    def quietest(of: Callable[[], object]) -> float:
        return min(timeit.repeat(of, timer=time.thread_time, number=CALLS, repeat=RUNS)) / CALLS * 1e6

    return quietest(call) - quietest(lambda: None)


async def replied(folder: Path) -> tuple[Reply, Observer]:
    """A real answer of a release that is watched and written down."""
    references = drift.references([drift.input_figures(np.array(one_hot(k % 10))) for k in range(300)])
    log = RequestLog(folder=folder / "log", boot_id=BOOT, clock=SystemClock())
    engine = watching_engine(log)
    slot = watched_slot(folder, references=references, consent=LogConsent(inputs=True))
    plan = plan_of(slot)
    await engine.apply(
        type(plan)(
            serial=1, slots=plan.slots, routes=plan.routes, request_logs=(LogWish(model=MODEL, sample_rate=0.01),)
        )
    )
    observer = engine.observer
    assert observer is not None
    wait_until(lambda: any(each.wish for each in observer.watches.values()), what="release is watched")
    return await ask(engine, one_hot(3)), observer


def main() -> int:
    """Print the figures; 1 when they miss the goal."""
    with tempfile.TemporaryDirectory() as folder:
        reply, observer = asyncio.run(replied(Path(folder)))
        series, ready_s = Series(), time.monotonic()
        counting = took_us(lambda: series.answered(reply, ready_s=ready_s))
        watching = took_us(lambda: observer.answered(reply, ready_s=ready_s))
        observer.close()
    total = counting + watching
    sys.stdout.write(
        f"counting {counting:.2f} us, watching {watching:.2f} us, both {total:.2f} us (goal {GOAL_US:g} us)\n"
    )
    return int(total > GOAL_US)


if __name__ == "__main__":
    sys.exit(main())
