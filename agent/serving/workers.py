"""Worker threads of one loaded release: requests first, shadow runs when there is nothing else to do."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.serving.errors import QueueFullError
from shared.errors import PipelineError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from agent.serving.lane import Lane
    from agent.serving.requests import Outcome, Request

    Done = Callable[[Outcome | PipelineError], None]

QUEUE_LENGTH = 64
"""Requests that wait for one release; with more, a caller does better to go elsewhere than to wait."""

SHADOW_QUEUE_LENGTH = 8
"""Shadow runs that wait. They hold their inputs in memory and nobody waits for them, so that the surplus is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    request: Request
    done: Done


class Workers:
    """One daemon thread a lane. `submit` and `close` belong to the event loop, and `done` is called on it."""

    def __init__(self, lanes: tuple[Lane, ...], *, name: str, loop: asyncio.AbstractEventLoop, run_ms: float) -> None:
        self._loop, self._run_ms = loop, run_ms
        self._changed = threading.Condition()
        self._requests: deque[_Work] = deque()
        self._shadows: deque[_Work] = deque()
        self._closed = False
        # Daemons: a model that never returns must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), name=f"{name}-{number}", daemon=True)
            for number, lane in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return len(self._requests)

    def submit(self, request: Request, done: Done) -> None:
        """Have a worker run it. Raises QueueFullError, saying when to come again."""
        with self._changed:
            if len(self._requests) >= QUEUE_LENGTH:
                ahead_s = QUEUE_LENGTH * self._run_ms / 1000 / len(self._threads)
                raise QueueFullError(f"{QUEUE_LENGTH} requests wait already", retry_after_s=max(1, math.ceil(ahead_s)))
            self._requests.append(_Work(request=request, done=done))
            self._changed.notify()

    def submit_shadow(self, request: Request, done: Done, *, limit: int = SHADOW_QUEUE_LENGTH) -> bool:
        """Have an idle worker run it, or drop it when `limit` wait already; returns whether it was taken."""
        with self._changed:
            if self._closed or len(self._shadows) >= min(limit, SHADOW_QUEUE_LENGTH):
                return False
            self._shadows.append(_Work(request=request, done=done))
            self._changed.notify()
            return True

    def close(self) -> None:
        """Have the threads end after what they are doing; shadow runs that wait are dropped."""
        with self._changed:
            self._closed = True
            self._shadows.clear()
            self._changed.notify_all()

    def join(self, *, timeout_s: float) -> bool:
        """Wait for closed threads; returns whether all have ended."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self, lane: Lane) -> None:
        while (work := self._take()) is not None:
            try:
                result: Outcome | PipelineError = lane.run(work.request)
            except PipelineError as exc:
                result = exc
            # The loop is gone only when the process is about to be.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(work.done, result)
            # Held no longer than needed: a request may be megabytes, and the next one may be hours away.
            del work, result

    def _take(self) -> _Work | None:
        with self._changed:
            while not (self._requests or self._shadows or self._closed):
                self._changed.wait()
            if self._requests:
                return self._requests.popleft()
            return self._shadows.popleft() if self._shadows else None
