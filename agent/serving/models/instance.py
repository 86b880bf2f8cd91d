"""A release in memory: immutable, closed when it is retired and the last of its shadow runs has ended.

Who waits for an answer of it is counted by its resident, which retires it when the last of them has gone.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from agent.serving.errors import DeadlinePassedError
from agent.serving.models.batching import Gathering, kind_of, settle
from agent.serving.models.probing import INLINE_MS
from agent.serving.models.workers import SHADOW_QUEUE_LENGTH, Workers
from agent.serving.requests import InferRequest, Outcome, Request

if TYPE_CHECKING:
    import asyncio

    from agent.core.plan import SlotSpec
    from agent.serving.models.batching import Answered
    from agent.serving.models.loading import LoadedModel
    from agent.serving.models.workers import Done


class Instance:
    """One loaded release. All methods belong to the event loop, so that counting needs no lock."""

    def __init__(self, slot: SlotSpec, model: LoadedModel, *, loop: asyncio.AbstractEventLoop) -> None:
        self._inline, self._loop = model.inline, loop
        self._workers = Workers(
            model.workers,
            name=f"{slot.model}-{slot.version_number}",
            loop=loop,
            run_ms=model.probe_ms,
            least_ms=model.least_ms,
        )
        self._most = max(each.most for each in (*model.workers, model.inline) if each)
        self._gathering = Gathering(model.inline, loop) if model.inline and model.inline.most > 1 else None
        self._shadow_runs = 0
        self._retired = False
        self.slot = slot
        self.probe, self.probe_ms, self._least_s = model.probe, model.probe_ms, model.least_ms / 1000
        lane = model.workers[0].lane
        self.inputs, self.outputs = lane.inputs, lane.outputs
        self.labels, self.takes_images, self.is_line = lane.labels, lane.takes_images, lane.is_line

    @property
    def is_inline(self) -> bool:
        """Whether small requests are answered on the event loop itself."""
        return self._inline is not None

    @property
    def is_closed(self) -> bool:
        """Whether it has been retired and its shadow runs have ended."""
        return self._retired and self._shadow_runs == 0

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return self._workers.waiting

    @property
    def rows_due(self) -> int:
        """Rows that are being run by workers, or wait for one."""
        return self._workers.rows_due

    async def run(self, request: Request, *, deadline_s: float, alone: bool = False) -> Outcome:
        """Answer; call it within the `used()` of the resident that it belongs to.

        `alone`: in no batch with others, so that what it takes can be compared with what it takes elsewhere.

        Raises:
            PipelineError: the request does not fit this model.
            ModelFailedError: the request fits, and the model broke.
            QueueFullError: too many wait already.
            DeadlinePassedError: there is no answer before `deadline_s` (monotonic).
        """
        if time.monotonic() + self._least_s > deadline_s:
            raise DeadlinePassedError
        # On the loop nothing can interrupt it, so that a timer would cost more than it could tell.
        if self._inline is not None and isinstance(request, InferRequest) and self._is_short(request):
            kind = kind_of(request, most=self._most) if self._gathers(alone=alone) else None
            if self._gathering is None or kind is None:
                return self._inline.run(request)
            return await self._gathering.join(request, kind)
        settled: asyncio.Future[Outcome] = self._loop.create_future()
        self._workers.submit(request, partial(settle, settled), deadline_s=deadline_s, alone=alone)
        timer = self._loop.call_later(deadline_s - time.monotonic(), _expire, settled)
        try:
            return await settled
        finally:
            timer.cancel()

    def run_shadow(self, request: Request, done: Done, *, limit: int = SHADOW_QUEUE_LENGTH) -> bool:
        """Run it when a worker is idle, and call `done` on the loop; returns False when it was dropped at once."""
        if self._retired or not self._workers.submit_shadow(request, partial(self._after_shadow, done), limit=limit):
            return False
        self._shadow_runs += 1
        return True

    @property
    def takes_shadows(self) -> bool:
        """Whether a shadow run would be taken now, and soon run."""
        return not self._retired and self._workers.takes_shadows

    def retire(self) -> None:
        """Take no new work, and close when the last shadow run has ended."""
        self._retired = True
        if self._shadow_runs == 0:
            self._workers.close()

    def join(self, *, timeout_s: float) -> bool:
        """Wait for the threads of a closed instance; returns whether all have ended."""
        return self._workers.join(timeout_s=timeout_s)

    def _gathers(self, *, alone: bool) -> bool:
        return not alone and self._gathering is not None and self._gathering.pays

    def _is_short(self, request: InferRequest) -> bool:
        return request.rows * self.probe_ms <= INLINE_MS

    def _after_shadow(self, done: Done, result: Answered) -> None:
        try:
            done(result)
        finally:
            self._release()

    def _release(self) -> None:
        self._shadow_runs -= 1
        if self.is_closed:
            self._workers.close()


def _expire(settled: asyncio.Future[Outcome]) -> None:
    if not settled.done():
        settled.set_exception(DeadlinePassedError())
