"""`boot.json`: what serving starts from without control, and the tries that a candidate has left."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from agent.core.plan import BootFile
from shared.decoding import MALFORMED

if TYPE_CHECKING:
    from pathlib import Path

_TRIES: Final = re.compile(rb'"tries_left"\s*:\s*(\d+)')

_log = structlog.get_logger(__name__)


class BootLedger:
    """Reads the file that control writes, and takes tries off it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> BootFile | None:
        """Return the file, or None when there is none that can be read: then control must speak first."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=BootFile)
        except FileNotFoundError:
            _log.info("boot_file_absent")
        except (OSError, *MALFORMED) as exc:
            _log.warning("boot_file_unreadable", path=str(self._path), error=str(exc))
        return None

    def spend_try(self, boot: BootFile) -> bool:
        """Take one try off `boot`, as it was read, and have it on the disk before returning.

        Returns False when none is left, or the disk does not take it.

        The number is overwritten where it stands. Control replaces the file by renaming, so that a newer one that comes
        meanwhile is never undone: what is written then goes to a file that has no name any more.
        """
        if boot.tries_left <= 0:
            return False
        try:
            self._write_tries(boot)
        except OSError as exc:
            # A try that is not on the disk would be spent again after every crash.
            _log.error("try_not_spent", path=str(self._path), error=str(exc))
            return False
        return True

    def _write_tries(self, boot: BootFile) -> None:
        descriptor = os.open(self._path, os.O_RDWR)
        try:
            place = _place_of_tries(os.read(descriptor, os.fstat(descriptor).st_size), boot)
            if place is not None:
                start, width = place
                os.pwrite(descriptor, str(boot.tries_left - 1).rjust(width).encode(), start)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _place_of_tries(data: bytes, boot: BootFile) -> tuple[int, int] | None:
    """Return where the number stands and its width; None when the file is another one by now."""
    try:
        if msgspec.json.decode(data, type=BootFile) != boot:
            return None
    except MALFORMED:
        return None
    # A string could hold the same letters, though not the same unescaped quotes; the keys of the file come once.
    match = _TRIES.search(data)
    return (match.start(1), len(match.group(1))) if match else None
