"""A file that is still coming: hashed as it grows, invisible until it is whole and right."""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from agent.delivery.durable import room_for, sync_folder
from shared.errors import DigestMismatchError, StorageFullError

if TYPE_CHECKING:
    from pathlib import Path

    from shared.wire import TargetRef

_READ_BYTES = 1024 * 1024


class PartFile:
    """`{name}.part` beside the file that it will become. All calls block: make them off the loop."""

    def __init__(self, into: Path, ref: TargetRef) -> None:
        """Go on from what an earlier try left, hashing it again: nobody knows what happened to it since."""
        self._into, self._ref = into, ref
        self._path = into.with_name(f"{into.name}.part")
        with room_for(self._path):
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        while block := self._file.read(_READ_BYTES):
            self._hash.update(block)
            self.size_bytes += len(block)
        if self.size_bytes > ref.length_bytes:
            self.restart()

    @property
    def missing_bytes(self) -> int:
        """How many bytes are still to come."""
        return self._ref.length_bytes - self.size_bytes

    @property
    def is_right(self) -> bool:
        """Whether the file is whole and what was promised."""
        return self.missing_bytes == 0 and self._hash.hexdigest() == self._ref.sha256

    def restart(self) -> None:
        """Forget everything that came."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def check_room(self, reserve_bytes: int) -> None:
        """Refuse to begin what cannot end. Raises StorageFullError, and drops the part file."""
        free = shutil.disk_usage(self._path.parent).free
        if free < self.missing_bytes + reserve_bytes:
            self.discard()
            raise StorageFullError(
                f"{self._into}: {self.missing_bytes} bytes to come and {reserve_bytes} in reserve, {free} free",
                retry_after_s=60.0,
            )

    def append(self, block: bytes) -> None:
        """Add bytes. Raises StorageFullError, and drops the part file: a full disk must not stay full through it."""
        try:
            with room_for(self._path):
                written = memoryview(block)
                while written:
                    written = written[self._file.write(written) :]
        except StorageFullError:
            self.discard()
            raise
        self._hash.update(block)
        self.size_bytes += len(block)

    def publish(self) -> None:
        """Make the file visible under its own name, for good.

        Raises:
            DigestMismatchError: it is not what was promised, and is dropped.
            StorageFullError: no room, and the part file is dropped.
        """
        if not self.is_right:
            actual = f"{self._hash.hexdigest()} over {self.size_bytes} bytes"
            self.discard()
            raise DigestMismatchError(expected=self._ref.sha256, actual=actual, path=self._ref.path)
        try:
            with room_for(self._path):
                # Before the rename: else a power cut could leave the right name on an empty file.
                os.fsync(self._file.fileno())
                self._path.replace(self._into)
        except StorageFullError:
            self.discard()
            raise
        sync_folder(self._into.parent)

    def discard(self) -> None:
        """Remove the part file."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; what came stays for the next try, unless it was discarded."""
        self._file.close()
