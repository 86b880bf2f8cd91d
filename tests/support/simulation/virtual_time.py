"""Virtual time and a network that loses, repeats, delays and thereby reorders; everything follows from one seed."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

START = datetime(2026, 1, 1, tzinfo=UTC)


class Agenda:
    """What happens when; also the clock of everybody."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._serial = itertools.count()
        self._entries: list[tuple[float, int, Callable[[], Awaitable[None] | None]]] = []

    def now(self) -> datetime:
        """Return the virtual time."""
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Return the virtual time in seconds."""
        return self.seconds

    def after(self, seconds: float, action: Callable[[], Awaitable[None] | None]) -> None:
        """Do something later."""
        heapq.heappush(self._entries, (self.seconds + seconds, next(self._serial), action))

    async def run_until(self, done: Callable[[], bool], *, at_most_s: float) -> bool:
        """Let things happen until `done` says so; return whether it did before the time was up."""
        end = self.seconds + at_most_s
        while self._entries and self._entries[0][0] <= end:
            self.seconds, _, action = heapq.heappop(self._entries)
            doing = action()
            if doing is not None:
                await doing
                # Only what the controller does can end a rollout.
                if done():
                    return True
        self.seconds = end
        return done()


@dataclass(kw_only=True)
class Network:
    """Carries one message at a time, badly."""

    agenda: Agenda
    draw: Random
    loss: float = 0.3
    repeats: float = 0.1
    slow: float = 0.1
    """Share of messages that take up to half a minute."""
    sent: int = 0
    lost: int = 0

    def carry(self, deliver: Callable[[], Awaitable[None] | None]) -> None:
        """Deliver a message never, once or twice."""
        copies = 2 if self.draw.random() < self.repeats else 1
        for _ in range(copies):
            self.sent += 1
            if self.draw.random() < self.loss:
                self.lost += 1
                continue
            longest = 30.0 if self.draw.random() < self.slow else 1.0
            self.agenda.after(self.draw.uniform(0.02, longest), deliver)
