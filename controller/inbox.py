"""What came from devices and waits to be stored: bounded, with a named policy for each kind when it is full."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.topics import Channel

if TYPE_CHECKING:
    from datetime import datetime

_TELEMETRY_LEVEL = f"/{Channel.TELEMETRY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingMessage:
    """One message, as the broker handed it over; nothing of it is verified."""

    topic: str
    payload: bytes
    received_at: datetime


class Overflow(StrEnum):
    """What gives way when there is no room."""

    DROP_OLDEST = "drop_oldest"
    """Telemetry: the newest measurements say most, and nobody waits for any."""
    DROP_NEWEST = "drop_newest"
    """Reports and heartbeats: what is not acknowledged comes again by itself, and those that wait came first."""


class Inbox:
    """Filled by the broker's thread, emptied by the event loop."""

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        """Take how much may wait, half of it for telemetry: a minute of a large fleet, and no danger to the process."""
        self._lock = threading.Lock()
        self._urgent = _Lane(Overflow.DROP_NEWEST, max_bytes // 2)
        self._telemetry = _Lane(Overflow.DROP_OLDEST, max_bytes // 2)

    def put(self, message: IncomingMessage) -> bool:
        """Let a message wait, and say whether nothing waited before."""
        lane = self._telemetry if message.topic.endswith(_TELEMETRY_LEVEL) else self._urgent
        with self._lock:
            was_empty = not self._urgent.messages and not self._telemetry.messages
            lane.put(message)
            return was_empty

    def take(self, limit: int) -> list[IncomingMessage]:
        """Return up to `limit` messages, in their order, telemetry after all others."""
        with self._lock:
            # Reports move rollouts; measurements can wait, or be lost.
            taken = self._urgent.take(limit)
            return taken + self._telemetry.take(limit - len(taken))

    def waiting(self) -> int:
        """Return how many messages wait."""
        with self._lock:
            return len(self._urgent.messages) + len(self._telemetry.messages)

    def dropped(self) -> dict[Overflow, int]:
        """Return how many messages each policy has cost since the start."""
        with self._lock:
            return {lane.overflow: lane.dropped for lane in (self._urgent, self._telemetry)}


class _Lane:
    """Messages of one kind; its owner holds the lock."""

    def __init__(self, overflow: Overflow, max_bytes: int) -> None:
        self.overflow = overflow
        self.messages: deque[IncomingMessage] = deque()
        self.dropped = 0
        self._room = max_bytes

    def put(self, message: IncomingMessage) -> None:
        """Take a message in, or let one give way."""
        size = _size_of(message)
        while self.overflow is Overflow.DROP_OLDEST and size > self._room and self.messages:
            self._room += _size_of(self.messages.popleft())
            self.dropped += 1
        if size > self._room:
            self.dropped += 1
            return
        self._room -= size
        self.messages.append(message)

    def take(self, limit: int) -> list[IncomingMessage]:
        """Hand out the oldest."""
        taken = [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]
        self._room += sum(_size_of(message) for message in taken)
        return taken


def _size_of(message: IncomingMessage) -> int:
    # An object, its topic and its place in the queue cost about this beside the payload.
    return len(message.payload) + 512
