"""A release that runs models of other releases, brought to a whole device, damaged there, and mended."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from shared.pipeline import PipelineSpec
from shared.wire import AssignmentStatus
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.mosquitto import Mosquitto

pytestmark = pytest.mark.timeout(240)

BOTH = msgspec.json.decode(
    json.dumps(
        {
            "steps": [
                {"type": "run_model", "id": "own"},
                {"type": "run_model", "id": "other", "model": "large", "takes": ["request"]},
                {"type": "fan_out", "takes": ["own", "other"]},
            ]
        }
    ),
    type=PipelineSpec,
)
LARGE = one_hot_classifier(shift=1)


@pytest.fixture
async def world(tmp_path: Path, mosquitto: Mosquitto) -> AsyncIterator[DeviceWorld]:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        yield world


async def said(world: DeviceWorld) -> dict[str, int] | None:
    """Ask with the fourth input; returns which class each model named, None while nobody answers."""
    try:
        reply = await asyncio.to_thread(world.device.infer, 3)
    except OSError:
        return None
    if reply.status != 200:
        return None
    scores = json.loads(reply.body["outputs"][0]["data"][0])
    return {name: each.index(max(each)) for name, each in scores.items()}


async def test_device_brings_a_release_of_several_models_and_mends_a_damaged_one(world: DeviceWorld) -> None:
    world.device.start()
    wanted = world.release("release-1", one_hot_classifier(), pipeline=BOTH, components={"large": LARGE})
    await world.desire(wanted)
    await world.reported("release-1", "succeeded")
    assert await said(world) == {"own": 3, "other": 4}
    file = world.device.releases / "release-1" / "components" / "large.tflite"
    assert file.read_bytes() == LARGE
    # The next release carries the same one.
    await world.desire(
        world.release("release-2", one_hot_classifier() + b"\0", pipeline=BOTH, components={"large": LARGE})
    )

    async def is_committed() -> bool:
        # Compared on what is asked meanwhile.
        assert await said(world) == {"own": 3, "other": 4}
        found = world.assignment("release-2")
        return found is not None and found.status is AssignmentStatus.SUCCEEDED

    await wait_until_async(is_committed, within_s=90.0, what="release-2 is committed")
    await asyncio.to_thread(world.device.stop)
    damaged = world.device.releases / "release-2" / "components" / "large.tflite"
    damaged.write_bytes(LARGE[:-1] + b"?")
    world.device.start()

    async def is_mended() -> bool:
        # While it is fetched again, it is away.
        return damaged.exists() and damaged.read_bytes() == LARGE and await said(world) == {"own": 3, "other": 4}

    await wait_until_async(is_mended, within_s=90.0, what="the damaged component was fetched again")
