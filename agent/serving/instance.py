"""A loaded release: immutable, counted by who uses it, closed when it is retired and the last user has gone."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from agent.serving.loading import INLINE_MS
from agent.serving.requests import InferRequest, Outcome, Request
from agent.serving.workers import SHADOW_QUEUE_LENGTH, Workers
from shared.errors import PipelineError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from agent.core.plan import SlotSpec
    from agent.serving.loading import LoadedModel
    from agent.serving.workers import Done


class Instance:
    """One loaded release. All methods belong to the event loop, so that counting needs no lock."""

    def __init__(self, slot: SlotSpec, model: LoadedModel, *, loop: asyncio.AbstractEventLoop) -> None:
        self._inline, self._loop = model.inline, loop
        self._workers = Workers(
            model.lanes, name=f"{slot.model}-{slot.version_number}", loop=loop, run_ms=model.probe_ms
        )
        self._users = 0
        self._retired = False
        self.slot = slot
        self.probe_ms = model.probe_ms
        self.inputs, self.outputs = model.lanes[0].inputs, model.lanes[0].outputs
        self.labels, self.takes_images = model.lanes[0].labels, model.lanes[0].takes_images

    @property
    def is_inline(self) -> bool:
        """Whether small requests are answered on the event loop itself."""
        return self._inline is not None

    @property
    def is_closed(self) -> bool:
        """Whether it has been retired and nobody uses it any more."""
        return self._retired and self._users == 0

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return self._workers.waiting

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keep it alive for the length of a request, whatever plan comes meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._release()

    async def run(self, request: Request) -> Outcome:
        """Answer; call it within `used()`.

        Raises:
            PipelineError: the request does not fit this model.
            ModelFailedError: the request fits, and the model broke.
            QueueFullError: too many wait already.
        """
        if self._inline is not None and isinstance(request, InferRequest) and self._is_short(request):
            return self._inline.run(request)
        settled: asyncio.Future[Outcome] = self._loop.create_future()
        self._workers.submit(request, partial(_settle, settled))
        return await settled

    def run_shadow(self, request: Request, done: Done, *, limit: int = SHADOW_QUEUE_LENGTH) -> bool:
        """Run it when a worker is idle, and call `done` on the loop; returns False when it was dropped at once."""
        if self._retired or not self._workers.submit_shadow(request, partial(self._after_shadow, done), limit=limit):
            return False
        self._users += 1
        return True

    def retire(self) -> None:
        """Take no new work, and close when the last user has gone."""
        self._retired = True
        if self._users == 0:
            self._workers.close()

    def join(self, *, timeout_s: float) -> bool:
        """Wait for the threads of a closed instance; returns whether all have ended."""
        return self._workers.join(timeout_s=timeout_s)

    def _is_short(self, request: InferRequest) -> bool:
        return request.rows * self.probe_ms <= INLINE_MS

    def _after_shadow(self, done: Done, result: Outcome | PipelineError) -> None:
        try:
            done(result)
        finally:
            self._release()

    def _release(self) -> None:
        self._users -= 1
        if self.is_closed:
            self._workers.close()


def _settle(settled: asyncio.Future[Outcome], result: Outcome | PipelineError) -> None:
    if settled.done():
        # Its caller has given up waiting.
        return
    if isinstance(result, PipelineError):
        settled.set_exception(result)
    else:
        settled.set_result(result)
