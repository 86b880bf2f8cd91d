"""Files are there whole or not at all, also on a full disk."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from controller.blobs import Blobs
from shared.errors import DigestMismatchError, InvalidIdError, InvalidInputError, NotFoundError, StorageFullError
from shared.ids import Sha256
from tests.support.file_size import file_size_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

DATA = random.Random(3).randbytes(3_000_000)
NAME = Sha256(hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Blobs]:
    opened = Blobs(tmp_path, max_blob_bytes=10_000_000)
    yield opened
    opened.close()


async def _pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != "parts")


async def test_blob_put_is_named_by_its_digest_and_read_only(blobs: Blobs) -> None:
    assert await blobs.put_bytes(DATA) == NAME
    assert await blobs.read(NAME) == DATA
    assert blobs.path(NAME).stat().st_mode & 0o222 == 0


async def test_blob_put_again_changes_nothing(blobs: Blobs, tmp_path: Path) -> None:
    await blobs.put_bytes(DATA)
    await blobs.put_bytes(DATA)
    assert _visible(tmp_path) == [NAME]


async def test_blob_put_from_file_is_a_copy(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    assert await blobs.put_file(source) == NAME
    source.write_bytes(b"changed")
    assert await blobs.read(NAME) == DATA


async def test_blob_on_a_full_disk_is_not_there_at_all(blobs: Blobs, tmp_path: Path) -> None:
    with file_size_limit(1_000_000), pytest.raises(StorageFullError):
        await blobs.put_bytes(DATA)
    assert _visible(tmp_path) == []
    assert await blobs.put_bytes(DATA) == NAME


async def test_upload_on_a_full_disk_keeps_what_arrived_and_goes_on(blobs: Blobs, tmp_path: Path) -> None:
    await blobs.begin(NAME, len(DATA))
    with file_size_limit(1_000_000), pytest.raises(StorageFullError):
        await blobs.append(NAME, 0, _pieces(DATA))
    assert _visible(tmp_path) == []
    arrived = (await blobs.upload(NAME)).offset_bytes
    assert 0 < arrived <= 1_000_000
    assert (await blobs.append(NAME, arrived, _pieces(DATA[arrived:]))).complete
    assert await blobs.read(NAME) == DATA


async def test_upload_larger_than_the_disk_is_refused_before_it_begins(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, max_blob_bytes=2**62)
    with pytest.raises(StorageFullError):
        await blobs.begin(NAME, 2**61)
    blobs.close()


async def test_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = Blobs(tmp_path, max_blob_bytes=10_000_000)
    await first.begin(NAME, len(DATA))
    await first.append(NAME, 0, _pieces(DATA[:1_000_000]))
    first.close()
    second = Blobs(tmp_path, max_blob_bytes=10_000_000)
    assert (await second.begin(NAME, len(DATA))).offset_bytes == 1_000_000
    assert (await second.append(NAME, 1_000_000, _pieces(DATA[1_000_000:]))).complete
    second.close()


async def test_upload_by_two_at_once_is_written_once(blobs: Blobs) -> None:
    await blobs.begin(NAME, len(DATA))
    outcomes: list[str] = []

    async def send() -> None:
        try:
            await blobs.append(NAME, 0, _pieces(DATA))
            outcomes.append("written")
        except Exception as error:  # noqa: BLE001 - which one it is, is what the test looks at
            outcomes.append(type(error).__name__)

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(send())
    assert sorted(outcomes) == ["ConflictError", "written"]
    assert await blobs.read(NAME) == DATA


async def test_upload_of_other_bytes_is_refused_and_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    await blobs.begin(NAME, len(DATA))
    with pytest.raises(DigestMismatchError):
        await blobs.append(NAME, 0, _pieces(bytes(len(DATA))))
    assert _visible(tmp_path) == []
    with pytest.raises(NotFoundError):
        await blobs.upload(NAME)


async def test_upload_declared_with_another_size_starts_over(blobs: Blobs) -> None:
    await blobs.begin(NAME, len(DATA) - 1)
    await blobs.append(NAME, 0, _pieces(DATA[:1000]))
    state = await blobs.begin(NAME, len(DATA))
    assert (state.size_bytes, state.offset_bytes) == (len(DATA), 0)


async def test_upload_of_a_file_that_is_here_with_another_size_is_refused(blobs: Blobs) -> None:
    await blobs.put_bytes(DATA)
    with pytest.raises(InvalidInputError, match="3000000"):
        await blobs.begin(NAME, 5)


async def test_half_written_file_of_an_earlier_life_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "0123.new").write_bytes(b"half")
    Blobs(tmp_path, max_blob_bytes=10).close()
    assert _visible(tmp_path) == []


@pytest.mark.parametrize("name", ["../operator-token", "parts", "", "A" * 64])
def test_attack_name_that_is_no_digest_reaches_no_path(blobs: Blobs, name: str) -> None:
    with pytest.raises(InvalidIdError):
        blobs.path(Sha256(name))
