"""Downloads from a server that attacks, stalls and cuts."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.delivery.download import DownloadLimits, fetch
from agent.link.https import DeviceApi
from agent.link.identity import client_tls, identity_files
from shared.errors import DigestMismatchError, InvalidInputError, StorageFullError, UnreachableError
from shared.manifest import digest
from shared.wire import TargetRef
from tests.support.device_api import DeviceServer, Fault
from tests.support.file_size import file_size_limit
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DATA = random.Random(1).randbytes(700_000)
LIMITS = DownloadLimits(max_bytes=10_000_000, reserve_bytes=0)
IMPATIENT = replace(LIMITS, grace_s=0.4)
NAME = "artifacts/model.tflite"


class Place:
    """A server with one file, a client, and where the file is to go."""

    def __init__(self, server: DeviceServer, api: DeviceApi, folder: Path) -> None:
        self.server, self.api = server, api
        self.into = folder / "model.tflite"
        self.part = folder / "model.tflite.part"
        self.ref = TargetRef(path=NAME, length_bytes=len(DATA), sha256=digest(DATA))

    async def fetch(self, limits: DownloadLimits = LIMITS) -> None:
        await fetch(self.api.http, self.api.target_url(NAME), self.ref, self.into, limits)

    def fail_by(self, fault: Fault, *, cut_after: int = 0) -> None:
        self.server.faults[NAME], self.server.cut_after = fault, cut_after

    def heal(self) -> None:
        self.server.faults.clear()

    def nothing_visible(self) -> bool:
        return not self.into.exists()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    folder = tmp_path / "slot"
    folder.mkdir()
    async with DeviceServer(tmp_path) as server:
        server.repository.targets[NAME] = DATA
        server.enrol_here(tmp_path / "state")
        tls = client_tls(identity_files(tmp_path / "state"))
        async with DeviceApi(controller_url=server.url, tls=tls) as api:
            yield Place(server, api, folder)


async def test_download_honest_is_whole_and_leaves_no_part(place: Place) -> None:
    await place.fetch()
    assert place.into.read_bytes() == DATA
    assert not place.part.exists()


async def test_download_of_what_is_there_asks_nobody(place: Place) -> None:
    await place.fetch()
    place.server.requests.clear()
    await place.fetch()
    assert place.server.requests == []


async def test_download_over_rotten_file_replaces_it(place: Place) -> None:
    place.into.write_bytes(DATA[:-1] + b"x")
    await place.fetch()
    assert place.into.read_bytes() == DATA


async def test_download_of_empty_file_is_an_empty_file(place: Place) -> None:
    place.ref = TargetRef(path=NAME, length_bytes=0, sha256=digest(b""))
    await place.fetch()
    assert place.into.read_bytes() == b""


@pytest.mark.parametrize("seed", range(6))
async def test_download_cut_at_random_offset_goes_on_there(place: Place, seed: int) -> None:
    offset = random.Random(seed).randrange(1, len(DATA))
    place.fail_by(Fault.TRUNCATE, cut_after=offset)
    with pytest.raises(UnreachableError):
        await place.fetch()
    assert place.nothing_visible()
    kept = place.part.stat().st_size
    assert DATA.startswith(place.part.read_bytes())
    place.heal()
    await place.fetch()
    assert place.into.read_bytes() == DATA
    assert place.server.ranges[-1] == (f"bytes={kept}-" if kept else "")


async def test_download_cut_again_and_again_gets_there(place: Place) -> None:
    chance = random.Random(7)
    tries = 0
    while place.nothing_visible():
        tries += 1
        place.fail_by(Fault.TRUNCATE, cut_after=chance.randrange(100_000, 300_000))
        try:
            await place.fetch()
        except UnreachableError:
            assert tries < 20
    assert tries > 1
    assert place.into.read_bytes() == DATA


async def test_download_cancelled_keeps_what_came(place: Place) -> None:
    place.fail_by(Fault.TRICKLE)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(place.fetch())
        await wait_until_async(lambda: place.server.sent_bytes > 3)
        task.cancel()
    assert place.nothing_visible()
    assert place.part.stat().st_size > 0
    place.heal()
    await place.fetch()
    assert place.into.read_bytes() == DATA


async def test_part_file_rotten_on_disk_is_fetched_anew(place: Place) -> None:
    place.part.write_bytes(b"rotten" * 1000)
    await place.fetch()
    assert place.into.read_bytes() == DATA
    assert place.server.ranges == ["bytes=6000-", ""]


async def test_part_file_longer_than_the_file_is_forgotten(place: Place) -> None:
    place.part.write_bytes(DATA + b"more")
    await place.fetch()
    assert place.into.read_bytes() == DATA


async def test_server_without_ranges_is_taken_from_the_start(place: Place) -> None:
    place.part.write_bytes(DATA[:1000])
    place.fail_by(Fault.WHOLE)
    await place.fetch()
    assert place.into.read_bytes() == DATA


async def test_hostile_mirror_answering_another_range_is_refused(place: Place) -> None:
    place.part.write_bytes(DATA[:1000])
    place.fail_by(Fault.OTHER_RANGE)
    with pytest.raises(UnreachableError, match="bytes 0-"):
        await place.fetch()
    assert place.nothing_visible()


async def test_hostile_mirror_flipping_a_bit_is_wrong_hash(place: Place) -> None:
    place.fail_by(Fault.FLIP)
    with pytest.raises(DigestMismatchError, match=digest(DATA)):
        await place.fetch()
    assert place.nothing_visible()
    assert not place.part.exists()


async def test_hostile_mirror_flipping_after_a_cut_is_wrong_hash(place: Place) -> None:
    place.part.write_bytes(DATA[:1000])
    place.fail_by(Fault.FLIP)
    with pytest.raises(DigestMismatchError):
        await place.fetch()
    assert not place.part.exists()


@pytest.mark.parametrize(("fault", "cut_after"), [(Fault.LONGER, 0), (Fault.SHORTER, 1000)])
async def test_hostile_mirror_announcing_wrong_length_is_refused_at_once(
    place: Place, fault: Fault, cut_after: int
) -> None:
    place.fail_by(fault, cut_after=cut_after)
    with pytest.raises(DigestMismatchError, match="bytes where"):
        await place.fetch()
    assert place.nothing_visible()
    assert not place.part.exists()


async def test_endless_data_is_cut_at_the_signed_length(place: Place) -> None:
    place.fail_by(Fault.ENDLESS)
    with pytest.raises(DigestMismatchError, match="more than 700000 bytes"):
        await place.fetch()
    assert not place.part.exists()
    # What the sockets buffer, beyond what the client read, is all that was sent.
    assert place.server.sent_bytes < 16 * 1024 * 1024


@pytest.mark.parametrize("fault", [Fault.TRICKLE, Fault.STALL])
async def test_slow_retrieval_is_refused_within_two_spans(place: Place, fault: Fault) -> None:
    place.fail_by(fault)
    async with asyncio.timeout(5.0):
        with pytest.raises(UnreachableError):
            await place.fetch(IMPATIENT)
    place.heal()
    await place.fetch()
    assert place.into.read_bytes() == DATA


async def test_hostile_mirror_redirecting_is_not_followed(place: Place) -> None:
    place.fail_by(Fault.REDIRECT)
    with pytest.raises(UnreachableError, match="302"):
        await place.fetch()
    assert not any("/honest/" in path for path in place.server.requests)


async def test_hostile_mirror_sending_compressed_is_refused(place: Place) -> None:
    place.fail_by(Fault.ENCODED)
    with pytest.raises(UnreachableError, match="encoded"):
        await place.fetch()
    assert place.nothing_visible()


async def test_server_in_trouble_says_when_to_come_back(place: Place) -> None:
    place.fail_by(Fault.ERROR)
    with pytest.raises(UnreachableError, match="503") as caught:
        await place.fetch()
    assert caught.value.retry_after_s == 7.0


async def test_file_larger_than_the_device_takes_is_never_asked_for(place: Place) -> None:
    with pytest.raises(InvalidInputError, match="max_download_bytes"):
        await place.fetch(replace(LIMITS, max_bytes=699_999))
    assert place.server.requests == []


async def test_disk_without_reserve_is_storage_full_before_a_byte_is_asked_for(place: Place) -> None:
    with pytest.raises(StorageFullError, match="free"):
        await place.fetch(replace(LIMITS, reserve_bytes=1 << 60))
    assert place.server.requests == []
    assert not place.part.exists()


async def test_disk_full_in_the_middle_leaves_nothing_and_heals(place: Place) -> None:
    with file_size_limit(300_000), pytest.raises(StorageFullError):
        await place.fetch()
    assert place.nothing_visible()
    assert not place.part.exists()
    await place.fetch()
    assert place.into.read_bytes() == DATA
