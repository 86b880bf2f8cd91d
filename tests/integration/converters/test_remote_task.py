"""A worker machine's side of a conversion, without a cluster around it."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from converters import remote_task
from converters.remote_task import Bench, BenchSettings
from shared import cluster, dataset
from shared.clock import SystemClock
from shared.cluster import Began, Ended, NamedContent, OfferedFile, RemoteOrder, Said
from shared.conversion import ConversionRequest, ConversionResult, FailureKind, SourceFormat
from shared.conversion_process import ConvertLimits
from shared.errors import StorageFullError, UnreachableError
from shared.hardware import GENERIC
from shared.ids import ConversionId, Sha256
from shared.pipeline import MODEL_ONLY
from tests.support.datasets import opaque, spec_of
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = ConvertLimits(wall_s=20.0, cpu_s=10, address_space_bytes=1024**3, file_bytes=1024**2, threads=1)
SOURCE = b"a model"
ATTEMPT_FAILS = (sys.executable, "-c", "raise SystemExit(3)")


class Wire:
    """Keeps what is said, and lets a test say when nobody wants it any longer."""

    address = "here"

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.standing = True

    def say(self, said: bytes) -> None:
        self.said.append(msgspec.json.decode(said, type=Said))

    def wanted(self, key: str) -> bool:
        return self.standing and bool(key)


class World:
    """A bench with an order at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wire = Wire()
        self.files = {_sha256(content): content for content in (SOURCE, *opaque().values())}
        settings = BenchSettings(
            command=ATTEMPT_FAILS, folder=folder, environments=folder / "workers", kept_bytes=1024**2
        )
        self.bench = Bench(settings, self.wire, SystemClock())

    def order(self) -> RemoteOrder:
        spec = spec_of(opaque())
        return RemoteOrder(
            key="conversion-1",
            request=ConversionRequest(
                conversion_id=ConversionId("0190b5a0-0000-7000-8000-000000000001"),
                source_path="",
                source_format=SourceFormat.KERAS,
                scratch_path="",
                dataset_path="",
                pipeline=MODEL_ONLY,
                profiles=(GENERIC,),
            ),
            limits=LIMITS,
            source=NamedContent(sha256=_sha256(SOURCE), length_bytes=len(SOURCE)),
            source_name="source.keras",
            document=dataset.encode(spec),
            shards=tuple(NamedContent(sha256=one.sha256, length_bytes=one.length_bytes) for one in spec.shards),
        )

    async def began(self) -> Said:
        return await wait_until_async(lambda: next((s for s in self.wire.said if isinstance(s.what, Began)), None))

    async def ended(self) -> Said:
        return await wait_until_async(lambda: next((s for s in self.wire.said if isinstance(s.what, Ended)), None))

    async def send_all(self, said: Said) -> None:
        for sha256, content in self.files.items():
            half = len(content) // 2
            await self.bench.put(said.attempt, sha256, 0, content[:half])
            await self.bench.put(said.attempt, sha256, half, content[half:])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield World(tmp_path)
    assert not list((tmp_path / "scratch").iterdir()), "nothing of an attempt is left"


def _sha256(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


async def test_order_asks_for_what_is_missing_and_offers_what_came_of_it(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(world.bench.convert(world.order()))
        said = await world.began()
        assert isinstance(said.what, Began)
        assert set(said.what.missing) == set(world.files)
        await world.send_all(said)
        ended = await world.ended()
        assert isinstance(ended.what, Ended)
        [offered] = ended.what.files
        told = await world.bench.get(ended.attempt, offered.name, 0)
        world.wire.standing = False
    assert msgspec.json.decode(told, type=ConversionResult).failure is FailureKind.CRASHED
    assert len(told) == offered.length_bytes


async def test_order_of_files_that_were_kept_has_nothing_sent(world: World) -> None:
    for sha256, content in world.files.items():
        (world.folder / "files" / sha256).write_bytes(content)
    async with asyncio.TaskGroup() as group:
        group.create_task(world.bench.convert(world.order()))
        said = await world.began()
        await world.ended()
        world.wire.standing = False
    assert said.what == Began(missing=())


async def test_order_that_nobody_wants_ends_while_it_waits(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(world.bench.convert(world.order()))
        await world.began()
        world.wire.standing = False


@pytest.mark.parametrize(
    ("sha256", "offset_bytes", "content", "said"),
    [
        (_sha256(SOURCE), 0, b"another", "another file"),
        (_sha256(SOURCE), 3, b"odel", "another part"),
        (Sha256("0" * 64), 0, SOURCE, "waits for no file"),
        (Sha256("../../x"), 0, SOURCE, "waits for no file"),
    ],
)
async def test_attack_piece_that_does_not_belong_is_refused(
    world: World, sha256: Sha256, offset_bytes: int, content: bytes, said: str
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(world.bench.convert(world.order()))
        began = await world.began()
        with pytest.raises(UnreachableError, match=said):
            await world.bench.put(began.attempt, sha256, offset_bytes, content)
        world.wire.standing = False
    assert not list((world.folder / "files").iterdir())


@pytest.mark.parametrize("name", ["result.json", "../stderr.log", "/etc/passwd"])
async def test_attack_file_that_is_not_offered_is_not_given(world: World, name: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(world.bench.convert(world.order()))
        began = await world.began()
        with pytest.raises(UnreachableError, match="offers no file"):
            await world.bench.get(began.attempt, name, 0)
        world.wire.standing = False


async def test_order_larger_than_the_disk_names_the_machine_and_the_folder(world: World) -> None:
    order = world.order()
    large = msgspec.structs.replace(order, source=NamedContent(sha256=_sha256(SOURCE), length_bytes=10**18))
    with pytest.raises(StorageFullError, match=rf"worker .*: the disk of {world.folder} has no room"):
        await world.bench.convert(large)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "..\\x", "a\0b"])
def test_attack_offered_name_that_leads_elsewhere_is_seen(name: str) -> None:
    assert not cluster.are_plain([OfferedFile(name=name, length_bytes=1)])
    assert cluster.are_plain([OfferedFile(name="full_int8-0123.tflite", length_bytes=1)])


def test_offer_leaves_out_links_and_what_lies_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "card.json").symlink_to("/etc/passwd")
    (tmp_path / "card.html").write_text("a page")
    offered = remote_task._offered(ConversionResult(card_path="card.json"), tmp_path)
    assert [file.name for file in offered] == ["card.html"]
    assert remote_task._offered(ConversionResult(card_path="/etc/passwd"), tmp_path) == []
