"""Control ↔ serving over a unix socket: frames of 4 bytes big-endian length and msgpack. Imports no numpy.

Both ends trust each other (0600 in a 0700 folder), so that an unreadable frame is a bug and ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from agent.core.plan import Applied, FromServing, GetStats, Plan, SetPlan, Stats, ToServing
from agent.serving.planned.sockets import connect_unix
from shared.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""A Stats of 1,000 series with full sketches is 10 MB; more is a broken peer."""

PLAN_DEADLINE_S: Final = 120.0
"""Serving reads, hashes, loads and probes every new model before it answers: minutes on a slow card."""

STATS_DEADLINE_S: Final = 10.0

HUNG_AFTER: Final = 3
"""Questions in a row without an answer until serving counts as hung. Its loop answers them between two requests, so
that half a minute of silence is no load: a model keeps the loop, or a lock is held for ever."""

_LENGTH_BYTES: Final = 4
_CONNECT_S: Final = 2.0
# The other side may be starting; a failed call is cheap to repeat.
_RETRY_AFTER_S: Final = 0.5
# `struct ucred` of unix(7): process, user, group.
_CREDENTIALS: Final = struct.Struct("3i")

_log = structlog.get_logger(__name__)
_to_serving: msgspec.msgpack.Decoder[ToServing] = msgspec.msgpack.Decoder(ToServing)
_from_serving: msgspec.msgpack.Decoder[FromServing] = msgspec.msgpack.Decoder(FromServing)


def frame(message: ToServing | FromServing) -> bytes:
    """Return the bytes of one frame."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read the body of one frame.

    Raises:
        EOFError: the stream ended, between frames or within one.
        ConnectionAbortedError: the length is more than any message has.
    """
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > MAX_FRAME_BYTES:
        raise ConnectionAbortedError(f"frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
    return await reader.readexactly(length)


class ServingClient:
    """Control's end. Connects when first used, and anew after any failure.

    Plans and questions have a connection each: a plan may take minutes to load, and what the candidate before it does
    to its callers must be seen meanwhile.
    """

    def __init__(self, path: Path, *, stats_deadline_s: float = STATS_DEADLINE_S) -> None:
        self._plans, self._questions = Line(path), Line(path)
        self._stats_deadline_s = stats_deadline_s
        self._silences = 0

    async def set_plan(self, plan: Plan) -> Applied:
        """Have serving converge on `plan`; safe to repeat.

        Raises:
            UnreachableError: serving is away, died of the plan, or did not answer in time.
        """
        answer = await self._plans.call(SetPlan(plan=plan), deadline_s=PLAN_DEADLINE_S)
        if not isinstance(answer, Applied):
            raise UnreachableError("serving answered another question", retry_after_s=_RETRY_AFTER_S)
        return answer

    async def stats(self) -> Stats:
        """Ask what serving has measured since it started; one that never answers is killed, to be started again.

        Raises:
            UnreachableError: no answer this time.
        """
        try:
            answer = await self._questions.call(GetStats(), deadline_s=self._stats_deadline_s)
        except _SilentError as exc:
            self._silences += 1
            if self._silences >= HUNG_AFTER:
                self._silences = 0
                _end_hung(exc.pid)
            raise
        except UnreachableError:
            # Nobody is there: its supervisor sees to that.
            self._silences = 0
            raise
        self._silences = 0
        if not isinstance(answer, Stats):
            raise UnreachableError("serving answered another question", retry_after_s=_RETRY_AFTER_S)
        return answer

    async def close(self) -> None:
        """Drop the connections; a later call makes new ones."""
        await self._plans.close()
        await self._questions.close()


class _SilentError(UnreachableError):
    """Serving took the connection, and gave no answer in time."""

    def __init__(self, message: str, *, pid: int) -> None:
        super().__init__(message, retry_after_s=_RETRY_AFTER_S)
        self.pid = pid


def _end_hung(pid: int) -> None:
    # Not ours, when both ends live in one process; 0, when the peer lives in another namespace of process ids.
    if pid in {0, os.getpid()}:
        return
    _log.error("serving_hung", pid=pid)
    with contextlib.suppress(ProcessLookupError):
        # It cannot hear anything gentler.
        os.kill(pid, signal.SIGKILL)


class Line:
    """One connection to serving; one call at a time, others wait."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, message: ToServing, *, deadline_s: float) -> FromServing:
        """Ask, and return the answer. Raises UnreachableError, _SilentError when it was heard and not answered."""
        async with self._turn:
            try:
                async with asyncio.timeout(deadline_s):
                    reader, writer = await self._connected()
                    writer.write(frame(message))
                    await writer.drain()
                    return _from_serving.decode(await read_frame(reader))
            except (OSError, EOFError, msgspec.DecodeError) as exc:
                # OSError includes TimeoutError. An answer that comes late must not be taken for the next call's.
                pid = self._peer_pid()
                await self.close()
                what = f"serving at {self._path} did not answer: {exc!r}"
                if isinstance(exc, TimeoutError) and pid is not None:
                    raise _SilentError(what, pid=pid) from exc
                raise UnreachableError(what, retry_after_s=_RETRY_AFTER_S) from exc
            except asyncio.CancelledError:
                await self.close()
                raise

    async def close(self) -> None:
        """Drop the connection; a later call makes a new one."""
        if self._streams is None:
            return
        _, writer = self._streams
        self._streams = None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def _peer_pid(self) -> int | None:
        """Return who listens at the other end, as the kernel knows it; None without a connection."""
        if self._streams is None:
            return None
        connection = self._streams[1].get_extra_info("socket")
        with contextlib.suppress(OSError):
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, _uid, _gid = _CREDENTIALS.unpack(credentials)
            return int(pid)
        return None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            connection = connect_unix(self._path, timeout_s=_CONNECT_S)
            connection.setblocking(False)
            self._streams = await asyncio.open_unix_connection(sock=connection)
        return self._streams


class ServingLink:
    """Serving's end: answers each frame with what `answer` makes of it."""

    def __init__(self, answer: Callable[[ToServing], Awaitable[FromServing]]) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, listener: socket.socket) -> None:
        """Accept connections on a listening unix socket."""
        self._server = await asyncio.start_unix_server(self._converse, sock=listener)

    async def close(self) -> None:
        """Stop accepting, and hang up."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                message = _to_serving.decode(await read_frame(reader))
                writer.write(frame(await self._answer(message)))
                await writer.drain()
        except EOFError:
            _log.debug("control_hung_up")
        except (OSError, msgspec.DecodeError) as exc:
            _log.warning("control_link_broken", error=str(exc))
        finally:
            self._writers.discard(writer)
            writer.close()
