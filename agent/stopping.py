"""How the control process ends when it is told to, and what it gives back once it has started."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import stat
import sys
from typing import Final, Never

END_WITHIN_S: Final = 20.0
"""Farewells to a broker and to serving that hang end by their own deadlines of 10 s."""


class Stopped(Exception):  # noqa: N818 - no error: how the one TaskGroup is told to end
    """The supervisor died, or a signal says stop."""


async def until_stopped(*, end_within_s: float = END_WITHIN_S) -> Never:
    """Raise Stopped when a signal says so, or when stdin ends: then the supervisor is dead, and a new one will come."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stdin = sys.stdin.fileno()
    # Anything but the supervisor's pipe (a terminal, /dev/null) says nothing by ending.
    if stat.S_ISFIFO(os.fstat(stdin).st_mode) or stat.S_ISSOCK(os.fstat(stdin).st_mode):

        def read() -> None:
            if not os.read(stdin, 1024):
                loop.remove_reader(stdin)
                stop.set()

        loop.add_reader(stdin, read)
    await stop.wait()
    # The journal may be left at any moment. A part that does not end would keep the next control process out for ever.
    loop.call_later(end_within_s, os._exit, os.EX_TEMPFAIL)
    raise Stopped


def return_memory() -> None:
    """Give back what importing needed: some 5 MiB of 36, which a small device has better uses for."""
    with contextlib.suppress(AttributeError, OSError):
        # glibc only; other C libraries give memory back by themselves or not at all.
        ctypes.CDLL(None).malloc_trim(0)
