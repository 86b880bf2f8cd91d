"""Worker threads of one loaded release: requests first, shadow runs when there is nothing else to do."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from agent.serving.errors import QueueFullError
from agent.serving.models.batching import kind_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from agent.serving.models.batching import Answered, Batcher
    from agent.serving.requests import Request

    Done = Callable[[Answered], None]

QUEUE_LENGTH: Final = 64
"""Requests that wait for one release; with more, a caller does better to go elsewhere than to wait."""

QUEUE_BYTES: Final = 32 * 1024 * 1024
"""What they may hold in memory together; one that is larger may wait alone."""

SHADOW_QUEUE_LENGTH: Final = 8
"""Shadow runs that wait. They hold their inputs in memory and nobody waits for them, so that the surplus is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    request: Request
    done: Done
    kind: Hashable | None = None
    """Requests of one kind may be answered together; None: this one runs alone."""
    deadline_s: float = math.inf
    """Moment (monotonic) after which nobody waits for the answer."""
    size_bytes: int = 0


class Workers:
    """One daemon thread a batcher. `submit` and `close` belong to the event loop, and `done` is called on it."""

    def __init__(
        self,
        batchers: Sequence[Batcher],
        *,
        name: str,
        loop: asyncio.AbstractEventLoop,
        run_ms: float,
        least_ms: float = 0.0,
    ) -> None:
        """Start them. A run takes `run_ms`, and has never been seen to take less than `least_ms`."""
        self._loop, self._run_ms, self._least_s = loop, run_ms, least_ms / 1000
        self._most = max(each.most for each in batchers)
        self._lock = threading.Lock()
        # Each idle thread waits for its own bell: the last to fall idle is rung first, since its model is still in the
        # processor's cache. Who finds nothing to do any more does no harm. A condition would cost ten times as much.
        self._idle: list[SimpleQueue[None]] = []
        self._requests: deque[_Work] = deque()
        self._waiting_bytes = 0
        self._shadows: deque[_Work] = deque()
        self._running_rows = [0] * len(batchers)
        self._closed = False
        # Daemons: a model that never returns must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._serve, args=(batcher, number), name=f"{name}-{number}", daemon=True)
            for number, batcher in enumerate(batchers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return len(self._requests)

    @property
    def rows_due(self) -> int:
        """Rows that are being run, or wait and are still wanted."""
        with self._lock:
            waiting = sum(each.request.rows for each in self._requests if not self._is_late(each))
        return waiting + sum(self._running_rows)

    @property
    def idle(self) -> int:
        """Threads that wait for something to do."""
        return len(self._idle)

    @property
    def takes_shadows(self) -> bool:
        """Whether a shadow run would be taken, and soon run."""
        return not self._closed and not self._shadows

    def submit(self, request: Request, done: Done, *, deadline_s: float = math.inf, alone: bool = False) -> None:
        """Have a worker run it, with others of its kind that wait unless it is to run `alone`.

        One that nobody waits for any more when its turn comes is dropped: its caller has been told at the deadline.
        Raises QueueFullError, saying when to come again.
        """
        work = _Work(
            request=request,
            done=done,
            kind=None if alone or self._most == 1 else kind_of(request, most=self._most),
            deadline_s=deadline_s,
            size_bytes=request.size_bytes,
        )
        with self._lock:
            if not self._has_room(work.size_bytes):
                self._keep(each for each in self._requests if not self._is_late(each))
            if not self._has_room(work.size_bytes):
                raise self._full()
            self._requests.append(work)
            self._waiting_bytes += work.size_bytes
            self._ring()

    def submit_shadow(self, request: Request, done: Done, *, limit: int = SHADOW_QUEUE_LENGTH) -> bool:
        """Have an idle worker run it, or drop it when `limit` wait already; returns whether it was taken."""
        with self._lock:
            if self._closed or len(self._shadows) >= min(limit, SHADOW_QUEUE_LENGTH):
                return False
            self._shadows.append(_Work(request=request, done=done))
            self._ring()
        return True

    def close(self) -> None:
        """Have the threads end after what they are doing; shadow runs that wait are dropped."""
        with self._lock:
            self._closed = True
            self._shadows.clear()
            while self._idle:
                self._ring()

    def join(self, *, timeout_s: float) -> bool:
        """Wait for closed threads; returns whether all have ended."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self, batcher: Batcher, number: int) -> None:
        bell: SimpleQueue[None] = SimpleQueue()
        while works := self._take(batcher.most, bell):
            self._running_rows[number] = sum(work.request.rows for work in works)
            results = batcher.run_all([work.request for work in works])
            self._running_rows[number] = 0
            # The loop is gone only when the process is about to be. It is woken once for all.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_tell, [work.done for work in works], results)
            # Held no longer than needed: a request may be megabytes, and the next one may be hours away.
            del works, results

    def _ring(self) -> None:
        """Wake a thread, where one is idle; under the lock."""
        if self._idle:
            self._idle.pop().put(None)

    def _take(self, most: int, bell: SimpleQueue[None]) -> list[_Work]:
        """Return what is to be run next: one request and what may be answered with it; nothing when closed."""
        while True:
            with self._lock:
                while self._requests:
                    first = self._requests.popleft()
                    self._waiting_bytes -= first.size_bytes
                    if not self._is_late(first):
                        return [first] if first.kind is None else self._with_others(first, most)
                if self._shadows:
                    return [self._shadows.popleft()]
                if self._closed:
                    return []
                self._idle.append(bell)
            bell.get()

    def _with_others(self, first: _Work, most: int) -> list[_Work]:
        taken, left, rows = [first], [], first.request.rows
        for each in self._requests:
            if each.kind == first.kind and rows + each.request.rows <= most and not self._is_late(each):
                taken.append(each)
                rows += each.request.rows
            else:
                left.append(each)
        if len(taken) > 1:
            self._keep(left)
        return taken

    def _keep(self, works: Iterable[_Work]) -> None:
        self._requests = deque(works)
        self._waiting_bytes = sum(each.size_bytes for each in self._requests)

    def _has_room(self, size_bytes: int) -> bool:
        fits = self._waiting_bytes + size_bytes <= QUEUE_BYTES or not self._requests
        return fits and len(self._requests) < QUEUE_LENGTH

    def _is_late(self, work: _Work) -> bool:
        return time.monotonic() + self._least_s > work.deadline_s

    def _full(self) -> QueueFullError:
        count = len(self._requests)
        ahead_s = count * self._run_ms / 1000 / len(self._threads)
        return QueueFullError(f"{count} requests wait already", retry_after_s=max(1, math.ceil(ahead_s)))


def _tell(waiting: Sequence[Done], results: Sequence[Answered]) -> None:
    for done, result in zip(waiting, results, strict=True):
        done(result)
