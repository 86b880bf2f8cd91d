"""Requests over kept connections as cheaply as Python can: `python -m tests.support.load_generator`, JSON in and out.

A process of its own, so that neither the server's loop nor the test's shares a GIL with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_DEADLINE_S = 30.0


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `count` requests in all, over `connections`; or as many as `run_s` allows."""

    host: str
    port: int
    path: str
    body: str
    connections: int
    count: int = 2**62
    run_s: float = 1e9
    keep_times: bool = False


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What came back."""

    answered: dict[str, int]
    """By status and version: `200/1`."""
    failures: tuple[str, ...]
    took_s: float
    times: tuple[tuple[float, float], ...] = ()
    """(moment of the answer on the monotonic clock, seconds that it took) of each request, where asked for."""

    @property
    def total(self) -> int:
        """Answers of any kind."""
        return sum(self.answered.values())


class _Generator:
    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        body = wish.body.encode()
        head = f"POST {wish.path} HTTP/1.1\r\nHost: {wish.host}\r\nContent-Length: {len(body)}\r\n"
        self._request = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
        self._turns: Iterator[int] = iter(range(wish.count))
        self._ends_s = time.monotonic() + wish.run_s
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self.times: list[tuple[float, float]] = []

    async def run(self) -> None:
        """Ask over all connections at once."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._wish.connections):
                group.create_task(self._converse())

    async def _converse(self) -> None:
        reader, writer = await asyncio.open_connection(self._wish.host, self._wish.port)
        for _ in self._turns:
            started = time.monotonic()
            if started > self._ends_s:
                break
            try:
                async with asyncio.timeout(ANSWER_DEADLINE_S):
                    self.answered[await self._ask(reader, writer)] += 1
            except (OSError, EOFError, ValueError) as exc:
                self.failures.append(repr(exc))
                writer.close()
                reader, writer = await asyncio.open_connection(self._wish.host, self._wish.port)
            if self._wish.keep_times:
                ended = time.monotonic()
                self.times.append((ended, ended - started))
        writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        _, _, rest = head.lower().partition(b"content-length: ")
        body = await reader.readexactly(int(rest.partition(b"\r\n")[0]))
        status = head.split(b" ", 2)[1].decode()
        if status != "200":
            self.failures.append(f"{status} {body.decode()}")
        # By hand: to parse each answer whole would cost more than to serve it.
        version = body.partition(b'"model_version":"')[2].partition(b'"')[0].decode()
        return f"{status}/{version}"


def main() -> None:
    """Read a wish, do it, and tell."""
    wish = msgspec.json.decode(sys.stdin.buffer.read(), type=Wish)
    generator, started = _Generator(wish), time.monotonic()
    asyncio.run(generator.run())
    tally = Tally(
        answered=dict(generator.answered),
        failures=tuple(generator.failures),
        took_s=time.monotonic() - started,
        times=tuple(generator.times),
    )
    sys.stdout.buffer.write(msgspec.json.encode(tally))


if __name__ == "__main__":
    main()
