"""A release of the plan: in memory, or asleep until somebody asks for it."""

from __future__ import annotations

import asyncio
import math
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from agent.serving.errors import ModelUnavailableError, QueueFullError
from agent.serving.models.workers import QUEUE_LENGTH, SHADOW_QUEUE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from agent.core.plan import SlotSpec
    from agent.serving.models.instance import Instance
    from agent.serving.models.workers import Done
    from agent.serving.requests import Request

    Wake = Callable[["Resident"], asyncio.Future[Instance]]


class Asleep(StrEnum):
    """Why a release that answers is not in memory."""

    IDLE = "unloaded_idle"
    EVICTED = "evicted"


class Resident:
    """What routes point to. All methods belong to the event loop, so that counting needs no lock.

    The instance behind it comes and goes; a request that holds it with `used` keeps whichever is there.
    """

    def __init__(self, slot: SlotSpec, instance: Instance, *, memory_bytes: int, wake: Wake) -> None:
        """Begin in memory. `wake` starts to load it again, once for all who ask meanwhile."""
        self.slot, self.memory_bytes = slot, memory_bytes
        self.inputs, self.outputs = instance.inputs, instance.outputs
        self.labels, self.takes_images, self.is_line = instance.labels, instance.takes_images, instance.is_line
        self.probe, self.probe_ms = instance.probe, instance.probe_ms
        self.instance: Instance | None = instance
        """None while it is asleep."""
        self.asleep: Asleep | None = None
        self.problem = ""
        """Why it could not be loaded again; empty when it could, or nobody asked."""
        self.used_s = -math.inf
        """When (monotonic) it last answered."""
        self.woke_s = time.monotonic()
        """When it was last loaded."""
        self._wake = wake
        self._users = 0
        self._retired = False
        self._failed_s = -math.inf

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for its answer."""
        return self._users > 0

    @property
    def is_retired(self) -> bool:
        """Whether no plan names it any more."""
        return self._retired

    @property
    def is_closed(self) -> bool:
        """Whether it has been retired and nobody uses it any more."""
        return self._retired and not self._users and (self.instance is None or self.instance.is_closed)

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return self.instance.waiting if self.instance is not None else 0

    @property
    def takes_shadows(self) -> bool:
        """Whether a shadow run would be taken now, and soon run."""
        return self.instance is not None and self.instance.takes_shadows

    @property
    def is_inline(self) -> bool:
        """Whether small requests are answered on the event loop itself."""
        return self.instance is not None and self.instance.is_inline

    def used(self) -> Self:
        """Return a context for the length of a request: what answers it stays, whatever plan comes meanwhile."""
        return self

    def __enter__(self) -> Self:
        self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        self.used_s = time.monotonic()
        if self._retired and not self._users:
            self._drop()

    async def awake(self) -> Instance:
        """Return the instance, loaded again if need be; call it within `used()`.

        Raises:
            ModelUnavailableError: it cannot be loaded now.
            QueueFullError: too many wait for it already.
        """
        if self.instance is not None:
            return self.instance
        if self._users > QUEUE_LENGTH:
            raise QueueFullError(f"{QUEUE_LENGTH} requests wait already for the model to load", retry_after_s=1)
        # Shielded: a caller who gives up must not take the loading from the others.
        return await asyncio.shield(self._wake(self))

    def nudge(self) -> None:
        """Have it loaded again if it is not and nobody has tried lately; whoever nudges does not wait for it."""
        if self.instance is None:
            self._wake(self)

    def check(self) -> None:
        """Raise ModelUnavailableError when it is known that it would not answer."""
        if self.problem:
            raise ModelUnavailableError(model=self.slot.model, why=self.problem)

    def check_retry(self, *, after_s: float) -> None:
        """Raise ModelUnavailableError when loading it has failed so lately that trying again would be for nothing."""
        if time.monotonic() - self._failed_s < after_s:
            self.check()

    def failed(self, problem: str) -> None:
        """Remember that it could not be loaded again."""
        self.problem, self._failed_s = problem, time.monotonic()

    def forgive(self) -> None:
        """Forget a failure, so that the next try is made at once."""
        self.problem, self._failed_s = "", -math.inf

    def run_shadow(self, request: Request, done: Done, *, limit: int = SHADOW_QUEUE_LENGTH) -> bool:
        """Run it when a worker is idle, and call `done` on the loop; returns False when it was dropped at once."""
        return self.instance is not None and self.instance.run_shadow(request, done, limit=limit)

    def woke(self, instance: Instance) -> None:
        """Answer with this from now on."""
        self.instance, self.asleep, self.woke_s = instance, None, time.monotonic()
        self.forgive()
        if self._retired and not self._users:
            self._drop()

    def sleep(self, why: Asleep) -> Instance | None:
        """Let go of the memory until somebody asks; returns what is to be let go of, retired."""
        gone, self.instance, self.asleep = self.instance, None, why
        if gone is not None:
            gone.retire()
        return gone

    def retire(self) -> None:
        """Take no new work, and let go of the memory when the last user has gone."""
        self._retired = True
        if not self._users:
            self._drop()

    def _drop(self) -> None:
        if self.instance is not None:
            self.instance.retire()
