"""Files that are whole or absent after a power cut."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import TYPE_CHECKING

from shared.errors import StorageFullError
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Disk, quota or the process's own limit on file size: to the caller it is all the same."""
_OWNER_ONLY = 0o600


def disk_is_full(error: OSError) -> bool:
    """Say whether an error means that there is no room."""
    return error.errno in _FULL


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space" inside the block into StorageFullError."""
    try:
        yield
    except OSError as exc:
        if not disk_is_full(exc):
            raise
        raise StorageFullError(f"{path}: {exc.strerror}", retry_after_s=60.0) from exc


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file's content in one step, readable by its owner only.

    Raises:
        StorageFullError: the old content still stands.
    """
    fresh = path.with_name(f".{path.name}.new")
    with room_for(path):
        try:
            # What a crash, or somebody else, left there has its own mode and may lead elsewhere: not written into.
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def sha256_of(path: Path) -> Sha256:
    """Return the sha256 of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return Sha256(hashlib.file_digest(file, "sha256").hexdigest())
