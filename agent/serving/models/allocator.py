"""The C library's allocator, asked to keep little: where it is glibc's. Elsewhere nothing happens."""

from __future__ import annotations

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8
"""From malloc.h."""


def keep_little() -> None:
    """Have all threads share one arena; call before any thread starts.

    Each thread has its own by default, of which none uses what others have free: 5 MiB more with a model of images and
    two workers. Waiting for each other costs next to nothing, since most allocations are made under Python's own lock.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the system what is free: after a model was loaded, that is several times its file."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
