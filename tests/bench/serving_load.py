"""Ask a server over and over: `python -m tests.bench.serving_load REQUEST --port N`. A process of its own.

REQUEST is a file that holds the whole of an HTTP/1.1 request. Answers are read as far as it takes to know where they
end and that they are good. Writes one line of JSON: how many, how long each took, what it cost this process.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import msgspec
from typing_extensions import override

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    answers: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    own_cpu_us: float
    """Of this process, for each answer."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


class _Caller(asyncio.Protocol):
    """One connection: the next request follows its answer at once."""

    def __init__(self, request: bytes, took: list[float], end_s: float) -> None:
        self._request, self._took, self._end_s = request, took, end_s
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.errors = 0
        self._buffer = b""
        self._began_s = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(_HEAD_END)
        if head < 0:
            return
        lower = self._buffer[:head].lower()
        start = lower.find(_LENGTH) + len(_LENGTH)
        stop = lower.find(b"\r", start)
        length = int(lower[start : stop if stop > 0 else head])
        if len(self._buffer) < head + len(_HEAD_END) + length:
            return
        self._took.append(time.perf_counter() - self._began_s)
        self.errors += not self._buffer.startswith(b"HTTP/1.1 200")
        self._buffer = b""
        if time.perf_counter() < self._end_s:
            self._ask()
        else:
            self._transport.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.errors += exc is not None or self._buffer != b""
        self.done.set_result(None)

    def _ask(self) -> None:
        self._began_s = time.perf_counter()
        self._transport.write(self._request)


async def ask(request: bytes, *, port: int, connections: int, seconds: float) -> Load:
    """Ask for so long over so many connections."""
    took: list[float] = []
    loop, began, cpu = asyncio.get_running_loop(), time.perf_counter(), time.process_time()
    callers: list[_Caller] = []
    for _ in range(connections):
        _, caller = await loop.create_connection(lambda: _Caller(request, took, began + seconds), "127.0.0.1", port)
        callers.append(caller)
    for caller in callers:
        await caller.done
    ordered = sorted(took) or [0.0]
    return Load(
        answers=len(took),
        errors=sum(caller.errors for caller in callers),
        seconds=time.perf_counter() - began,
        p50_ms=ordered[len(ordered) // 2] * 1000,
        p99_ms=ordered[len(ordered) * 99 // 100] * 1000,
        own_cpu_us=(time.process_time() - cpu) * 1e6 / max(1, len(took)),
    )


def main() -> None:
    """Read the arguments, and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("request", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    load = asyncio.run(
        ask(given.request.read_bytes(), port=given.port, connections=given.connections, seconds=given.seconds)
    )
    sys.stdout.buffer.write(msgspec.json.encode(load) + b"\n")


if __name__ == "__main__":
    main()
