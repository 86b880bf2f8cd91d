"""Files that are whole or absent."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from agent.delivery.durable import room_for, sha256_of, write_whole
from shared.errors import StorageFullError
from shared.manifest import digest
from tests.support.file_size import file_size_limit

if TYPE_CHECKING:
    from pathlib import Path


def test_file_written_whole_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_file_written_to_a_full_disk_keeps_its_old_content(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_whole(path, b"old")
    with file_size_limit(100), pytest.raises(StorageFullError, match="kept"):
        write_whole(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_in_any_words_is_storage_full(tmp_path: Path, number: int) -> None:
    with pytest.raises(StorageFullError), room_for(tmp_path):
        raise OSError(number, "no room")


def test_other_trouble_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="rotten"), room_for(tmp_path):
        raise OSError(errno.EIO, "rotten")


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 3_000_000)
    assert sha256_of(path) == digest(b"x" * 3_000_000)
