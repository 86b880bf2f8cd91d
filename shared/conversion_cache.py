"""The folder in which conversions keep what they made, bounded: what was used longest ago goes first."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A conversion that writes is at it for minutes; what is left half written for a day was left for good.
_UNFINISHED_S = 86_400.0
_UNFINISHED = ".new"


def prune(folder: Path, *, max_bytes: int, now_s: float) -> int:
    """Delete files, the one used longest ago first, until no more than `max_bytes` are left; return the bytes freed.

    Every file of the cache is named by its content's key and may be missing, so that a conversion under way only makes
    again what it does not find. `now_s`: seconds since 1970, as files have them.
    """
    found = sorted(_aged(folder))
    kept = sum(size for _, size, _ in found)
    freed = 0
    for used_at_s, size, path in found:
        unfinished = path.endswith(_UNFINISHED)
        if unfinished and now_s - used_at_s < _UNFINISHED_S:
            continue
        if not unfinished and kept - freed <= max_bytes:
            continue
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - as os.scandir gave it
            freed += size
    return freed


def _aged(folder: str | Path) -> Iterator[tuple[float, int, str]]:
    """Yield (last used, bytes, path) of every file below a folder; links are not followed, they lead elsewhere."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _aged(entry.path)
                else:
                    stat = entry.stat(follow_symlinks=False)
                    yield stat.st_mtime, stat.st_size, entry.path
