"""Time and entropy, as values that are passed in: this is the only module that reads the wall clock."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Protocol

from shared.ids import uuid7


class Clock(Protocol):
    """Where the imperative shell gets its time from; cores get theirs from the event's `at`."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for measuring intervals."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back, for measuring intervals."""
        return time.monotonic()


def mint_id(clock: Clock) -> str:
    """Return a fresh UUIDv7."""
    return uuid7(clock.now(), os.urandom(10))
