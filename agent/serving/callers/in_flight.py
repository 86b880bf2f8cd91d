"""Requests in flight: counted, and given time to finish when the process is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from agent.serving.callers.connections import Connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.serving.callers.connections import Connection


class Traffic:
    """Counts requests from head to answer. aiohttp's own shutdown would cut off bodies that are still arriving."""

    def __init__(self) -> None:
        self.connections = Connections()
        self._count = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.is_ending = False
        """Connections are to be closed after the answer that is next on them."""

    @property
    def in_flight(self) -> int:
        """How many there are now."""
        return self._count

    @contextlib.contextmanager
    def request(self, connection: Connection | None = None) -> Iterator[None]:
        """Count one request, and its connection as busy, while it is in the block."""
        self._count += 1
        self._is_idle.clear()
        if connection is not None:
            self.connections.note(connection, is_busy=True)
        try:
            yield
        finally:
            if connection is not None:
                self.connections.note(connection, is_busy=False)
            self._count -= 1
            if self._count == 0:
                self._is_idle.set()

    async def end(self, *, within_s: float) -> bool:
        """Let the requests in flight finish; returns whether all did in time."""
        self.is_ending = True
        try:
            async with asyncio.timeout(within_s):
                return await self._is_idle.wait()
        except TimeoutError:
            return False
