"""Brings decisions to devices: counts evidence, carries out rollout work page by page, under a token bucket.

Everything left to do is in the database; this loop holds nothing that a restart would lose.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from shared.errors import RetryableError

if TYPE_CHECKING:
    from controller.db.engine import Database
    from controller.rollouts.service import RolloutService
    from shared.clock import Clock

log = structlog.get_logger(__name__)

DEVICES_PER_S = 500.0
"""A Desired is sealed for each device: about a millisecond of one core."""
PAGE = 500
IDLE_S = 1.0
"""A look without having been woken: another consumer of the outbox may have cleared the event."""


class TokenBucket:
    """Lets `rate_per_s` devices through, in bursts of at most `burst`."""

    def __init__(self, clock: Clock, *, rate_per_s: float, burst: int) -> None:
        self._clock = clock
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = clock.monotonic()

    def available(self) -> int:
        """Return how many devices may go now."""
        now = self._clock.monotonic()
        self._tokens = min(self._tokens + (now - self._filled_at) * self._rate_per_s, float(self._burst))
        self._filled_at = now
        return int(self._tokens)

    def take(self, amount: int) -> None:
        """Use up tokens; more than there are delays those who come next."""
        self._tokens -= amount

    def wait_s(self) -> float:
        """Return the seconds until a device may go again."""
        return max(0.0, (1.0 - self._tokens) / self._rate_per_s)


class Dispatch:
    """The loop that moves rollouts on."""

    def __init__(
        self, *, database: Database, rollouts: RolloutService, clock: Clock, devices_per_s: float = DEVICES_PER_S
    ) -> None:
        self._database = database
        self._rollouts = rollouts
        self._bucket = TokenBucket(clock, rate_per_s=devices_per_s, burst=PAGE)

    async def run(self) -> None:
        """Work until cancelled; wakes with the outbox."""
        while True:
            self._database.outbox_event.clear()
            try:
                await self.drain()
            except RetryableError as exc:
                log.warning("dispatch_delayed", reason=exc.reason, retry_after_s=exc.retry_after_s)
                await asyncio.sleep(exc.retry_after_s)
                continue
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._database.outbox_event.wait()
            except TimeoutError:
                continue

    async def drain(self) -> None:
        """Carry out all that is left, evidence first. Raises RetryableError when the database is away."""
        while True:
            # A failure that is in must stop the next devices before they are told.
            await self._rollouts.consume_evidence()
            page = self._bucket.available()
            if page < 1:
                await asyncio.sleep(self._bucket.wait_s())
                continue
            touched = await self._rollouts.carry_out_next(page=page)
            if touched is None:
                return
            self._bucket.take(touched)
