"""A whole device that gets releases by deltas, and says what it fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import UnsetType

from converters.delta import make
from shared.delta import delta_path
from shared.manifest import digest
from shared.wire import AssignmentStatus, Transfer
from tests.support.deltas import write_pair
from tests.support.device_api import Fault
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.wire import DesiredModel
    from tests.support.mosquitto import Mosquitto

pytestmark = pytest.mark.timeout(240)

FIRST = one_hot_classifier()
SECOND = FIRST + b"\0"
PATH = delta_path(digest(FIRST), digest(SECOND))


@pytest.fixture
async def world(tmp_path: Path, mosquitto: Mosquitto) -> AsyncIterator[DeviceWorld]:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        world.device.start()
        await world.desire(world.release("release-1", FIRST))
        await world.reported("release-1", AssignmentStatus.SUCCEEDED)
        yield world


@pytest.fixture
def delta(world: DeviceWorld, tmp_path: Path) -> bytes:
    """A delta from the first artifact to the second, in the repository."""
    make(*write_pair(tmp_path, FIRST, SECOND), tmp_path / "delta")
    made = (tmp_path / "delta").read_bytes()
    world.server.repository.add(PATH, made, profiles=())
    return made


async def transfer(world: DeviceWorld, name: str) -> tuple[int, int]:
    """Wait until a release is on the device's disk, and return what was fetched for it, and its length."""

    def told() -> Transfer | None:
        found = world.assignment(name)
        return None if found is None or isinstance(found.transfer, UnsetType) else found.transfer

    said = await wait_until_async(told, within_s=60, what=f"{name} is on the disk")
    return said.fetched_bytes, said.full_bytes


def asked_for(world: DeviceWorld, wanted: DesiredModel) -> bool:
    return any(wanted.artifact.path in request for request in world.server.requests)


async def test_device_brings_a_release_by_a_delta_and_says_what_it_took(world: DeviceWorld, delta: bytes) -> None:
    wanted = world.release("release-2", SECOND)
    await world.desire(wanted)
    assert await transfer(world, "release-2") == (len(delta), len(SECOND))
    assert not asked_for(world, wanted)
    folder = world.device.releases / "release-2"
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.tflite"]
    assert (folder / "model.tflite").read_bytes() == SECOND


async def test_device_whose_delta_is_damaged_fetches_the_artifact(world: DeviceWorld, delta: bytes) -> None:
    world.server.faults[PATH] = Fault.FLIP
    wanted = world.release("release-2", SECOND)
    await world.desire(wanted)
    assert await transfer(world, "release-2") == (len(delta) + len(SECOND), len(SECOND))
    assert asked_for(world, wanted)


async def test_device_without_a_delta_fetches_the_artifact(world: DeviceWorld) -> None:
    await world.desire(world.release("release-2", SECOND))
    assert await transfer(world, "release-2") == (len(SECOND), len(SECOND))


async def test_device_fetches_nothing_of_an_artifact_that_it_holds_already(world: DeviceWorld) -> None:
    world.server.requests.clear()
    wanted = world.release("release-2", FIRST)
    await world.desire(wanted)
    assert await transfer(world, "release-2") == (0, len(FIRST))
    assert not asked_for(world, wanted)
