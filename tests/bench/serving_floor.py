"""The least that a server in Python can cost: `python -m tests.bench.serving_floor ANSWER --port N`.

A bare `asyncio.Protocol` that reads as much of a request as it takes to know where it ends, and sends the bytes in
ANSWER.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from typing_extensions import override

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Floor(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._buffer = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._buffer += data
        while (head := self._buffer.find(_HEAD_END)) >= 0:
            lower = self._buffer[:head].lower()
            found = lower.find(_LENGTH)
            stop = lower.find(b"\r", found)
            length = int(lower[found + len(_LENGTH) : stop if stop > 0 else head]) if found >= 0 else 0
            end = head + len(_HEAD_END) + length
            if len(self._buffer) < end:
                return
            self._buffer = self._buffer[end:]
            self._transport.write(self._answer)


async def serve(answer: bytes, port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Floor(answer), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(serve(given.answer.read_bytes(), given.port))
