"""`boot.json`: what serving starts from without control, and the tries that a candidate has left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from agent.core.plan import BootFile
from shared.decoding import MALFORMED

if TYPE_CHECKING:
    from pathlib import Path

_TRIES: Final = re.compile(rb'"tries_left"\s*:\s*(\d+)')

_log = structlog.get_logger(__name__)


class Paid(msgspec.Struct, frozen=True, kw_only=True):
    """The newest try that was taken, and who loads under it."""

    round: str
    plan_serial: int
    riders: tuple[int, ...]


class BootLedger:
    """Reads the file that control writes, and takes tries off it; one of several serving processes over one file.

    What all of them do at once, starting together or taking up the same plan, is a *round*, and takes one try. A
    process that starts again has ended on its own, and is a round by itself. So each crash of any of them counts once.
    """

    def __init__(self, path: Path, *, number: int = 0) -> None:
        """`number` is this process's."""
        self._path, self._number = path, number
        # Where the processes tell each other that a round is paid for.
        self._paid_path = path.with_name("boot-round.json")

    def read(self) -> BootFile | None:
        """Return the file, or None when there is none that can be read: then control must speak first."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=BootFile)
        except FileNotFoundError:
            _log.info("boot_file_absent")
        except (OSError, *MALFORMED) as exc:
            _log.warning("boot_file_unreadable", path=str(self._path), error=str(exc))
        return None

    def spend_try(self, boot: BootFile, *, together: str) -> bool:
        """Take one try off `boot`, as it was read, and have it on the disk before returning.

        Returns False when none is left, or the disk does not take it. `together` names the round.

        The number is overwritten where it stands. Control replaces the file by renaming, so that a newer one that comes
        meanwhile is never undone: what is written then goes to a file that has no name any more.
        """
        try:
            return self._spend(boot, together)
        except OSError as exc:
            # A try that is not on the disk would be spent again after every crash.
            _log.error("try_not_spent", path=str(self._path), error=str(exc))
            return False

    def _spend(self, boot: BootFile, together: str) -> bool:
        descriptor = os.open(self._path, os.O_RDWR)
        try:
            # Until it is closed: another process may have taken a try since this one read the file.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            paid = self._read_paid()
            serial = boot.plan.serial
            riders: tuple[int, ...] = (self._number,)
            if paid is not None and (paid.round, paid.plan_serial) == (together, serial):
                if self._number not in paid.riders:
                    self._paid(Paid(round=together, plan_serial=serial, riders=(*paid.riders, self._number)))
                    return True
                riders = paid.riders
            found = _tries_in(os.read(descriptor, os.fstat(descriptor).st_size), boot)
            left = boot.tries_left if found is None else found.left
            if left <= 0:
                return False
            if found is not None:
                os.pwrite(descriptor, str(left - 1).rjust(found.width).encode(), found.start)
                os.fsync(descriptor)
            self._paid(Paid(round=together, plan_serial=serial, riders=riders))
            return True
        finally:
            os.close(descriptor)

    def _read_paid(self) -> Paid | None:
        with contextlib.suppress(OSError, *MALFORMED):
            return msgspec.json.decode(self._paid_path.read_bytes(), type=Paid)
        return None

    def _paid(self, paid: Paid) -> None:
        # Lost with the power, it costs a try more; written in pieces, it is no JSON, which is the same.
        self._paid_path.write_bytes(msgspec.json.encode(paid))


class _Tries(NamedTuple):
    left: int
    start: int
    width: int


def _tries_in(data: bytes, boot: BootFile) -> _Tries | None:
    """Return the number in the file and where it stands; None when the file is another one by now."""
    try:
        found = msgspec.json.decode(data, type=BootFile)
    except MALFORMED:
        return None
    if msgspec.structs.replace(found, tries_left=boot.tries_left) != boot:
        return None
    # A string could hold the same letters, though not the same unescaped quotes; the keys of the file come once.
    match = _TRIES.search(data)
    return _Tries(left=found.tries_left, start=match.start(1), width=len(match.group(1))) if match else None
