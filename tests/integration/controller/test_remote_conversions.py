"""Conversions on the machines of a cluster: real processes on loopback, under mutual TLS."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from controller.blobs import Blobs
from controller.registry.core.conversion import MAX_ATTEMPTS
from controller.registry.core.types import Conversion, ConversionOrder, ConversionState, ModelVersion
from controller.remote_conversions import ClusterSettings, DaskConverter
from shared import dataset
from shared.cluster_address import ClusterCertificates
from shared.conversion import AccuracyBudget, FailureKind, Objective, SourceFormat
from shared.conversion_process import ConvertLimits
from shared.errors import UnreachableError
from shared.hardware import GENERIC
from shared.ids import ConversionId, ModelName, Sha256
from shared.manifest import Scheme
from shared.pipeline import MODEL_ONLY
from tests.support.authority import Authority
from tests.support.cluster import ClusterProcesses
from tests.support.controller_process import ControllerProcess
from tests.support.datasets import opaque, spec_of
from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import lives
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from controller.registry.core.types import Card
    from shared.conversion import ConversionProgress, ConversionResult

LIMITS = ConvertLimits(wall_s=60.0, cpu_s=20, address_space_bytes=1024**3, file_bytes=8 * 1024**2, threads=1)
WORKERS = ("first", "second")
HUNG = "scratch/*/in/hung.pid"

pytestmark = [
    # Dask leaves sockets of connections that were refused or cut to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    running = ClusterProcesses(tmp_path_factory.mktemp("cluster"))
    try:
        running.start()
        for name in WORKERS:
            running.start_worker(name)
        yield running
    finally:
        running.stop()


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Blobs]:
    opened = Blobs(tmp_path / "blobs", max_blob_bytes=100_000_000)
    yield opened
    opened.close()


class World:
    """A controller's side of the cluster."""

    def __init__(self, cluster: ClusterProcesses, blobs: Blobs, folder: Path) -> None:
        certificates = ClusterCertificates(ca=cluster.ca, certificate=cluster.certificate, key=cluster.key)
        self.settings = ClusterSettings(scheduler=cluster.address, certificates=certificates)
        self.blobs = blobs
        self.folder = folder
        self.seen: list[ConversionProgress] = []

    def converter(self, settings: ClusterSettings | None = None) -> DaskConverter:
        return DaskConverter(
            settings=settings or self.settings, blobs=self.blobs, scratch=self.folder / "scratch", limits=LIMITS
        )

    async def convert(
        self, behaviour: str, *, by: DaskConverter | None = None, number: int = 1, data: str = "data"
    ) -> tuple[ConversionResult, Card | None]:
        source = await self.blobs.put_bytes(behaviour.encode())
        shards = opaque(data)
        for content in shards.values():
            await self.blobs.put_bytes(content)
        document = await self.blobs.put_bytes(dataset.encode(spec_of(shards)))

        async def progress(line: ConversionProgress) -> None:
            self.seen.append(line)

        converter = by or self.converter()
        ended = await converter.convert(_conversion(document, number), _version(source), progress)
        assert list((self.folder / "scratch").iterdir()) == [] or by is not None
        return ended

    def steps(self) -> list[str]:
        return [line.step for line in self.seen]


@pytest.fixture
def world(cluster: ClusterProcesses, blobs: Blobs, tmp_path: Path) -> World:
    return World(cluster, blobs, tmp_path)


def _version(source: Sha256) -> ModelVersion:
    return ModelVersion(
        model=ModelName("digits"),
        number=1,
        sha256=source,
        size_bytes=1,
        filename="model",
        source_format=SourceFormat.KERAS,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _conversion(data: Sha256, number: int) -> Conversion:
    order = ConversionOrder(
        model=ModelName("digits"),
        version_number=1,
        dataset_sha256=data,
        pipeline=MODEL_ONLY,
        schemes=(Scheme.FULL_INT8,),
        profiles=(GENERIC,),
        budget=AccuracyBudget(),
        objective=Objective.SMALLEST,
        image_input=False,
        batch=1,
    )
    return Conversion(
        conversion_id=ConversionId(f"0190b5a0-0000-7000-8000-{number:012d}"),
        order=order,
        state=ConversionState.RUNNING,
        step="",
        fraction=0.0,
        failure=None,
        message="",
        artifacts=(),
        candidates=(),
        card=None,
        result_sha256=None,
        attempts=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def test_conversion_elsewhere_brings_artifact_card_and_progress(world: World) -> None:
    result, card = await world.convert("card")
    assert result.failure is None, result.message
    assert (await world.blobs.read(result.artifacts[0].sha256)).startswith(b"a very small model")
    assert card is not None
    assert await world.blobs.read(card.json_sha256) == b'{"name": "a card"}'
    assert b"<title>" in await world.blobs.read(card.page_sha256)
    assert world.steps()[0] == "waiting for a worker"
    assert world.steps()[1].startswith("start on ")


async def test_conversion_elsewhere_finds_its_files_under_their_names(world: World) -> None:
    result, _ = await world.convert("describe")
    told = json.loads(result.message.rsplit(" (on ", 1)[0])
    assert told["source"] == "source.keras"
    assert told["dataset"] == ["calibration.npz", "dataset.json", "gate.npz", "search.npz"]
    assert (told["cache"], told["environments"]) == (True, "workers")


async def test_two_conversions_meet_on_two_workers(world: World) -> None:
    place = world.folder / "place"
    place.mkdir()
    converter = world.converter()
    async with asyncio.timeout(40.0), asyncio.TaskGroup() as group:
        both = [group.create_task(world.convert(f"meet {place}", by=converter, number=n)) for n in (1, 2)]
    assert [task.result()[0].failure for task in both] == [None, None]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [("lie", "sha256"), ("steal", "scratch folder"), ("link", "scratch folder"), ("silent", "exit code 3")],
)
async def test_attack_program_elsewhere_that_lies_is_believed_nothing(world: World, behaviour: str, said: str) -> None:
    result, card = await world.convert(behaviour)
    assert (result.failure, said in result.message, card) == (FailureKind.CRASHED, True, None), result.message


async def test_worker_killed_in_the_middle_is_replaced_by_another(world: World, cluster: ClusterProcesses) -> None:
    flag = world.folder / "hung-once"
    async with asyncio.timeout(60.0), asyncio.TaskGroup() as group:
        task = group.create_task(world.convert(f"hang-first {flag}"))
        await _kill_where_it_hangs(cluster)
    result, _ = task.result()
    assert result.failure is None, result.message
    assert "attempt 2: its worker was lost" in " ".join(world.steps())


async def test_conversion_that_loses_every_worker_is_given_up(world: World, cluster: ClusterProcesses) -> None:
    async with asyncio.timeout(90.0), asyncio.TaskGroup() as group:
        task = group.create_task(world.convert("hang"))
        for _ in range(MAX_ATTEMPTS):
            await _kill_where_it_hangs(cluster)
    result, _ = task.result()
    assert result.failure is FailureKind.CRASHED
    assert result.message == f"its worker was lost during each of {MAX_ATTEMPTS} attempts"


async def test_conversion_canceled_is_gone_from_its_worker_within_seconds(
    world: World, cluster: ClusterProcesses
) -> None:
    async with asyncio.timeout(40.0), asyncio.TaskGroup() as group:
        task = group.create_task(world.convert("hang"))
        await wait_until_async(lambda: _hung(cluster), within_s=30.0)
        left = _hung(cluster)
        task.cancel()
    await wait_until_async(lambda: not any(lives(pid) for pid in left), within_s=4.0)
    await wait_until_async(lambda: not _hung(cluster), what="the scratch folder is empty again")


async def test_dataset_is_sent_to_a_worker_once(world: World, cluster: ClusterProcesses) -> None:
    seen: dict[Path, set[int]] = {}
    for number in range(4):
        result, _ = await world.convert("good", number=number, data="sent once")
        assert result.failure is None, result.message
        for name in WORKERS:
            for path in (cluster.worker_folder(name) / "files").iterdir():
                seen.setdefault(path, set()).add(path.stat().st_ino)
    # A file that is sent again takes the place of the one before.
    assert all(len(files) == 1 for files in seen.values())


async def test_attack_certificate_of_another_authority_is_refused(world: World) -> None:
    ca, certificate, key = Authority("somebody else").write_member(world.folder, "stranger")
    for root in (ca, world.settings.certificates.ca if world.settings.certificates else ca):
        strange = ClusterCertificates(ca=root, certificate=certificate, key=key)
        with pytest.raises(UnreachableError, match="cannot be reached"):
            await world.convert("good", by=world.converter(replace(world.settings, certificates=strange)))


def test_attack_client_without_a_certificate_is_refused(cluster: ClusterProcesses) -> None:
    context = ssl.create_default_context(cafile=cluster.ca)
    context.check_hostname = False
    with (
        socket.create_connection((LOOPBACK, cluster.port), timeout=10.0) as plain,
        context.wrap_socket(plain) as encrypted,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        # With TLS 1.3 a client learns of its refusal when it reads.
        encrypted.recv(1)


async def test_attack_client_without_tls_is_refused(world: World, cluster: ClusterProcesses) -> None:
    plain = ClusterSettings(scheduler=f"tcp://{LOOPBACK}:{cluster.port}", certificates=None)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        await world.convert("good", by=world.converter(plain))


def test_attack_cluster_for_which_the_devices_authority_vouches_is_refused(
    cluster: ClusterProcesses, tmp_path: Path
) -> None:
    names = {"convert_cluster_certificate": str(cluster.certificate), "convert_cluster_key": str(cluster.key)}
    with ControllerProcess(
        tmp_path, convert_cluster_ca=str(cluster.ca), convert_cluster=cluster.address, **names
    ) as good:
        own = good.state_dir / "authority" / "ca.pem"
        assert good.stop() == 0
    bad = ControllerProcess(tmp_path, convert_cluster_ca=str(own), convert_cluster=cluster.address, **names)
    refused = bad.launch().wait(30.0)
    assert refused != 0
    assert "vouches for every device of this fleet" in bad.log


async def test_scheduler_that_is_away_is_told_and_waited_for(world: World) -> None:
    away = replace(world.settings, scheduler=f"tls://127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError, match="cannot be reached"):
        await world.convert("good", by=world.converter(away))
    assert world.steps()[-1].startswith("waiting: the cluster at tls://127.0.0.1")


def _hung(cluster: ClusterProcesses) -> list[int]:
    found = [path.read_text().split() for name in WORKERS for path in cluster.worker_folder(name).glob(HUNG)]
    return [int(pid) for pids in found for pid in pids]


def _where_it_hangs(cluster: ClusterProcesses) -> str:
    return next((name for name in WORKERS if any(cluster.worker_folder(name).glob(HUNG))), "")


async def _kill_where_it_hangs(cluster: ClusterProcesses) -> None:
    """Kill the worker whose conversion hangs, and start it anew."""
    name = await wait_until_async(lambda: _where_it_hangs(cluster), within_s=40.0)
    program, child = await wait_until_async(lambda: _hung(cluster))
    cluster.kill_worker(name)
    await wait_until_async(lambda: not lives(program), what="the program ends with its worker")
    # A front end would have had a guard, which ends it with the program.
    os.kill(child, signal.SIGKILL)
    shutil.rmtree(cluster.worker_folder(name) / "scratch")
    cluster.start_worker(name)
