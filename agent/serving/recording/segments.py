"""Lines on disk in files of bounded size: what is full is closed, and the oldest gives way.

    {moment}-{boot}-{n}.open       being written, locked by its writer; `.openup` where it is to be sent
    {moment}-{boot}-{n}.up         whole, and still to be sent to the controller
    {moment}-{boot}-{n}.jsonl      whole, and staying here

Several processes write into one folder. A line is whole in the kernel when `append` returns, so that the death of a
process loses nothing; a file is synced when it is closed, so that power loss may take the newest file and none before
it. Nothing here waits for the disk on behalf of a request.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

from shared.request_log import MAX_SEGMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPEN, OPEN_UP, UP, KEPT = ".open", ".openup", ".up", ".jsonl"
_FINAL: Final = {OPEN: KEPT, OPEN_UP: UP}
_ALL: Final = (OPEN, OPEN_UP, UP, KEPT)

BUDGET_BYTES: Final = 64 * 1024 * 1024
"""Of all files together: some hundred thousand requests without values, and less than one large model."""


class Segment:
    """One file that this process writes."""

    def __init__(self, path: Path, *, now_s: float) -> None:
        """Begin it; the end of its name says whether it is to be sent. Raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        # Held until the descriptor is closed or its process dies: who can take it finds an orphan.
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.size_bytes, self.began_s = 0, now_s

    def append(self, line: bytes) -> None:
        """Write a line, whole or not at all. Raises OSError."""
        try:
            written = os.write(self._fd, line)
            if written < len(line):
                # A regular file takes less only when the disk is full, and then the rest fails.
                os.write(self._fd, line[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size_bytes)
                os.lseek(self._fd, self.size_bytes, os.SEEK_SET)
            raise
        self.size_bytes += len(line)

    def close(self) -> None:
        """Have it on the disk, under its final name. Raises OSError."""
        try:
            os.fsync(self._fd)
        finally:
            self._path.rename(self._path.with_suffix(_FINAL[self._path.suffix]))
            os.close(self._fd)


def files(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files that end so, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    return []


def lines(folder: Path) -> Iterator[bytes]:
    """Yield every whole line, oldest file first, those being written included."""
    for path in files(folder, *_ALL):
        # It may have got its final name, or given way, since it was listed.
        for now in (path, path.with_suffix(UP), path.with_suffix(KEPT)):
            with contextlib.suppress(FileNotFoundError):
                yield from (line for line in now.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))
                break


def take_orphans(folder: Path) -> None:
    """Close what processes that died were writing."""
    for path in files(folder, *_FINAL):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = file.read(2 * MAX_SEGMENT_BYTES)
            file.truncate(content.rfind(b"\n") + 1)
            path.rename(path.with_suffix(_FINAL[path.suffix]))


def make_room(folder: Path, *, budget_bytes: int, needed_bytes: int) -> None:
    """Remove the oldest files until what is needed fits the budget; what was sent or stays goes before what waits."""
    sizes: dict[Path, int] = {}
    for path in files(folder, *_ALL):
        with contextlib.suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    over_bytes = sum(sizes.values()) + needed_bytes - budget_bytes
    for path in sorted(sizes, key=lambda each: (each.suffix != KEPT, each.name)):
        if over_bytes <= 0:
            return
        if path.suffix not in _FINAL:
            path.unlink(missing_ok=True)
            over_bytes -= sizes[path]
