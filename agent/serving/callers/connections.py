"""Keeps connections that nobody uses, and bodies that nobody has asked for yet, from filling the process."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from agent.serving.errors import QueueFullError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Protocol

    class Connection(Protocol):
        """One of the HTTP server's connections."""

        @property
        def transport(self) -> Transport | None:
            """What it speaks through; None when it has ended."""
            ...

        def force_close(self) -> None:
            """End it when what is written has been read."""
            ...

    class Transport(Protocol):
        """The socket below."""

        def abort(self) -> None:
            """End it now, whatever has not been read."""
            ...

    class Runner(Protocol):
        """What starts and ends the HTTP server."""

        @property
        def server(self) -> Server | None:
            """The server while it runs."""
            ...

    class Server(Protocol):
        """The HTTP server: it knows its connections."""

        @property
        def connections(self) -> Collection[Connection]:
            """All that are open."""
            ...


SILENT_S: Final = 30.0
"""A caller that has connected sends a whole head within this, or is gone."""

IDLE_S: Final = 75.0
"""So long a connection stays open between two requests; a pool that keeps its own longer connects again."""

BUSY_S: Final = 120.0
"""A body gets 30 s, an answer 30 s, and its reader what is left of this."""

MAX_CONNECTIONS: Final = 4096
MAX_OPEN_BODY_BYTES: Final = 128 * 1024 * 1024
"""Bodies that are being read, together: four of the largest."""

_SWEEP_S: Final = 5.0
_MAX_FILES: Final = 65_536

_log = structlog.get_logger(__name__)


class Seen(NamedTuple):
    """What a connection did last, and when (monotonic)."""

    since_s: float
    is_busy: bool
    has_asked: bool


class Connections:
    """When each connection last did something. All methods belong to the event loop."""

    def __init__(self, *, limit: int | None = None) -> None:
        """Allow `limit` connections at once; by default, half of the files that the process may open."""
        self._limit = limit or min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.seen: dict[Connection, Seen] = {}
        """By connection; of closed ones until the next sweep."""

    def note(self, connection: Connection, *, is_busy: bool) -> None:
        """Remember that a request on this connection has begun, or has been answered."""
        self.seen[connection] = Seen(time.monotonic(), is_busy, has_asked=True)

    def sweep(self, connections: Collection[Connection], *, now_s: float) -> int:
        """End those that are silent, idle or busy for too long, and the longest idle of too many; returns how many."""
        silent = Seen(now_s, is_busy=False, has_asked=False)
        # Of closed ones nothing is kept.
        self.seen = seen = {each: self.seen.get(each, silent) for each in connections}
        late = [each for each, was in seen.items() if now_s - was.since_s > _patience_s(was)]
        idle = sorted((each for each, was in seen.items() if not was.is_busy), key=lambda each: seen[each].since_s)
        surplus = idle[: max(0, len(seen) - self._limit)]
        ended = dict.fromkeys([*late, *surplus])
        for each in ended:
            each.force_close()
            # What is written would keep a connection whose reader does not read; of the others nothing is lost.
            if each.transport is not None:
                each.transport.abort()
        return len(ended)

    async def watch(self, runner: Runner) -> None:
        """Sweep every few seconds, for as long as the server runs."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            server = runner.server
            ended = 0 if server is None else self.sweep(tuple(server.connections), now_s=time.monotonic())
            if ended:
                _log.info("connections_ended", count=ended)


class Bodies:
    """How many bytes of bodies are being read at once."""

    def __init__(self, *, limit_bytes: int = MAX_OPEN_BODY_BYTES) -> None:
        self._limit_bytes, self._open_bytes = limit_bytes, 0

    @contextlib.contextmanager
    def reading(self, size_bytes: int) -> Iterator[None]:
        """Make room for a body while it is in the block. Raises QueueFullError when there is none now."""
        if self._open_bytes and self._open_bytes + size_bytes > self._limit_bytes:
            raise QueueFullError("too many large bodies arrive at once", retry_after_s=1)
        self._open_bytes += size_bytes
        try:
            yield
        finally:
            self._open_bytes -= size_bytes


def raise_file_limit() -> None:
    """Let the process open as many files as the system allows: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _patience_s(seen: Seen) -> float:
    if seen.is_busy:
        return BUSY_S
    return IDLE_S if seen.has_asked else SILENT_S
