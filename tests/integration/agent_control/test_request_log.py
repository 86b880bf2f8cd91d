"""Requests written down on a whole device: a sealed Desired asks, a release allows, the controller gets them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from agent.serving.recording import segments
from shared.request_log import LogConsent, LogWish
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.serving import MODEL
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.mosquitto import Mosquitto

pytestmark = pytest.mark.timeout(240)

EVERYTHING = LogWish(model=MODEL, sample_rate=1.0, upstream=True)


@pytest.fixture
async def world(tmp_path: Path, mosquitto: Mosquitto) -> AsyncIterator[DeviceWorld]:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        world.device.start()
        yield world


def written(world: DeviceWorld) -> list[str]:
    """Ids of what lies on the device."""
    return [json.loads(line)["id"] for line in segments.lines(world.device.state / "request-log")]


async def test_requests_reach_the_controller_once_a_sealed_desired_asks_for_them(world: DeviceWorld) -> None:
    release = world.release("release-1", one_hot_classifier(), log_consent=LogConsent(upstream=True))
    await world.desire(release)
    await world.reported("release-1", "succeeded")
    await asyncio.to_thread(world.device.infer, 3)
    await world.desire(release, request_logs=(EVERYTHING,))

    async def asked() -> list[str]:
        assert (await asyncio.to_thread(world.device.infer, 3)).status == 200
        return written(world)

    await wait_until_async(asked, within_s=30, what="a request is written down")
    # A process that ends closes its files, which otherwise stay open for half a minute.
    pid = world.device.serving_pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    await wait_until_async(lambda: bool(world.server.logged), within_s=60, what="the controller has it")
    event = json.loads(world.server.logged[0])
    assert (event["data"]["model"], event["data"]["top"]) == (MODEL, "3")
    assert event["data"]["inputs"][0]["omitted"] == "no_consent"
    assert [json.loads(line)["id"] for line in world.server.logged] == written(world)[: len(world.server.logged)]


async def test_wish_without_consent_of_the_release_writes_nothing(world: DeviceWorld) -> None:
    await world.desire(world.release("release-1", one_hot_classifier()), request_logs=(EVERYTHING,))
    await world.reported("release-1", "succeeded")
    for number in range(10):
        await asyncio.to_thread(world.device.infer, number)
    assert not (world.device.state / "request-log").exists()
