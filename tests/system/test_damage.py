"""Full disks, half-written files and releases that kill: what is sound goes on, and what is not is told."""

from __future__ import annotations

import asyncio
import hashlib
import random
import resource
from typing import TYPE_CHECKING

import pytest

from controller.client import ApiError
from shared.wire import AssignmentStatus
from tests.support.controller_process import ControllerProcess
from tests.support.device_api import Fault
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.serving import CRASH, Device
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.mosquitto import Mosquitto
    from tests.support.serving import HttpAnswer

pytestmark = pytest.mark.timeout(240)

GOOD = one_hot_classifier()
UPLOAD = random.Random(20261124).randbytes(3_000_000)
ROOM_BYTES = 2_000_000


@pytest.fixture
async def world(tmp_path: Path, mosquitto: Mosquitto) -> AsyncIterator[DeviceWorld]:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        yield world


async def answer(world: DeviceWorld) -> HttpAnswer:
    """Ask the device once, as soon as somebody listens."""
    answers: list[HttpAnswer] = []

    async def asked() -> bool:
        try:
            answers.append(await asyncio.to_thread(world.device.infer))
        except OSError:
            return False
        return True

    await wait_until_async(asked, within_s=30, what="the device answers")
    return answers[-1]


async def test_first_release_that_kills_serving_is_taken_out_and_nothing_is_served(world: DeviceWorld) -> None:
    world.device = Device(world.device.state, control="agent.control", serving="tests.support.crashing_serving")
    world.device.start()
    # The trial's runtime takes it; the serving process dies each time it loads it.
    await world.desire(world.release("release-1", GOOD + CRASH))
    told = await world.reported("release-1", AssignmentStatus.ROLLED_BACK, within_s=120)
    assert told.reason.startswith("no_previous: ")
    reply = await answer(world)
    assert (reply.status, reply.body["reason"]) == (503, told.reason)
    await world.desire(world.release("release-2", GOOD))
    await world.reported("release-2", AssignmentStatus.SUCCEEDED)
    assert (await answer(world)).body["model_version"] == "2"


async def test_half_written_stable_at_start_lets_the_one_before_it_answer_and_is_mended(world: DeviceWorld) -> None:
    world.device.start()
    await world.desire(world.release("release-1", GOOD))
    await world.reported("release-1", AssignmentStatus.SUCCEEDED)
    second = world.release("release-2", GOOD + b"\0")
    await world.desire(second)
    await asked_until_succeeded(world, "release-2")
    await asyncio.to_thread(world.device.stop)
    artifact = world.device.releases / "release-2" / "model.tflite"
    artifact.write_bytes(artifact.read_bytes()[:100])
    world.server.faults[second.artifact.path] = Fault.ERROR
    world.reports.clear()
    world.device.start()
    # Before control has looked at the files, serving has: the digest is checked before anything is loaded.
    first = await answer(world)
    assert (first.status, first.body.get("model_version")) in {(200, "1"), (503, None)}
    await wait_until_async(lambda: damage_told(world).startswith("damaged: digest_mismatch"), within_s=60)
    assert damage_told(world).endswith("release-1 answers until it is mended")
    assert (await answer(world)).body["model_version"] == "1"
    world.server.faults.clear()

    async def mended() -> bool:
        return (await answer(world)).body.get("model_version") == "2"

    await wait_until_async(mended, within_s=120, what="the stable release is fetched again and answers")


async def test_log_on_a_full_disk_stops_neither_inference_nor_a_release(world: DeviceWorld) -> None:
    # Every line that supervisor, control and serving write is refused as a full disk refuses it.
    world.device.log.symlink_to("/dev/full")
    world.device.start()
    await world.desire(world.release("release-1", GOOD))
    await world.reported("release-1", AssignmentStatus.SUCCEEDED)
    serving, control = world.device.serving_pid(), world.device.control_pid()
    assert (await answer(world)).status == 200
    await world.desire(world.release("release-2", GOOD + b"\0"))
    await asked_until_succeeded(world, "release-2")
    assert (world.device.serving_pid(), world.device.control_pid()) == (serving, control)


def damage_told(world: DeviceWorld) -> str:
    """Return why the newest report says that stable does not answer."""
    return world.reports[-1].slots[0].unavailable_reason if world.reports and world.reports[-1].slots else ""


async def asked_until_succeeded(world: DeviceWorld, name: str) -> None:
    """Ask as applications do, so that a candidate can be compared, until it is committed."""

    async def succeeded() -> bool:
        await answer(world)
        told = world.assignment(name)
        return told is not None and told.status is AssignmentStatus.SUCCEEDED

    await wait_until_async(succeeded, within_s=90, what=f"{name} is committed")


async def test_upload_to_a_full_disk_is_507_shows_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(UPLOAD)
    sha256 = hashlib.sha256(UPLOAD).hexdigest()
    with ControllerProcess(tmp_path) as controller:
        unlimited = resource.prlimit(controller.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(controller.pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, unlimited[1]))
        async with controller.client() as api:
            with pytest.raises(ApiError) as refused:
                await api.upload(path)
            assert refused.value.http_status == 507
            with pytest.raises(ApiError) as absent:
                await api.call("GET", f"/blobs/{sha256}")
            assert absent.value.http_status == 404
            resource.prlimit(controller.pid, resource.RLIMIT_FSIZE, unlimited)
            arrived: list[int] = []
            assert await api.upload(path, lambda sent, _total: arrived.append(sent)) == sha256
            assert await api.call("GET", f"/blobs/{sha256}") == UPLOAD
        assert 0 < arrived[0] <= ROOM_BYTES
        assert "Traceback" not in controller.log
