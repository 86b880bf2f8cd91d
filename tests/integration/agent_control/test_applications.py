"""Applications on a whole device: granted in a file, held to it by HTTP and by the broker."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import aiomqtt
import msgspec
import pytest

from agent.grants import add_grant, new_key, remove_grants
from agent.link.identity import load_identity
from shared.broker_inference import BrokerReply, BrokerRequest, pack, unpack_reply
from shared.topics import inference_topic
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.serving import MODEL, infer_body, one_hot
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.mosquitto import Mosquitto

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def world(tmp_path: Path, mosquitto: Mosquitto) -> AsyncIterator[DeviceWorld]:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        world.device.start()
        await world.desire(world.release("release-1", one_hot_classifier()))
        await world.reported("release-1", "succeeded")
        yield world


async def status_of(world: DeviceWorld, key: str) -> int:
    request = urllib.request.Request(
        f"{world.device.url}/v2/models/{MODEL}/infer",
        data=infer_body(one_hot(3)),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )

    def ask() -> int:
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code

    return await asyncio.to_thread(ask)


async def ask_by_broker(world: DeviceWorld, mosquitto: Mosquitto, request_id: str) -> tuple[BrokerReply, bytes]:
    topic = inference_topic(load_identity(world.device.state).device_id, "shop.till")
    asked = BrokerRequest(id=request_id, reply="c1", model=MODEL, body=msgspec.Raw(infer_body(one_hot(3))))
    async with asyncio.timeout(20), aiomqtt.Client(mosquitto.host, mosquitto.port) as client:
        await client.subscribe(f"{topic}/reply/c1", qos=1)
        await client.publish(topic, pack(asked), qos=1)
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            return unpack_reply(message.payload)
    raise AssertionError


async def test_application_is_let_in_and_out_while_the_device_runs(world: DeviceWorld, mosquitto: Mosquitto) -> None:
    path, key = world.device.state / "applications.json", new_key()
    assert await status_of(world, key) == 401
    assert (await ask_by_broker(world, mosquitto, "r1"))[0].status == 403

    add_grant(path, "shop", key=key, models=[MODEL])

    async def let_in() -> bool:
        return await status_of(world, key) == 200

    await wait_until_async(let_in, within_s=20, what="the key opens the model")
    reply, body = await ask_by_broker(world, mosquitto, "r2")
    assert (reply.status, json.loads(body)["model_name"]) == (200, MODEL)
    assert [grant.application for grant in world.device.read_boot().plan.applications] == ["shop"]

    remove_grants(path, "shop")

    async def shut_out() -> bool:
        return await status_of(world, key) == 401

    await wait_until_async(shut_out, within_s=20, what="the key opens nothing")
    assert (await ask_by_broker(world, mosquitto, "r3"))[0].status == 403
    assert world.device.read_boot().plan.applications == ()
    assert key not in world.device.log.read_text()


async def test_serving_that_starts_without_control_knows_the_applications(world: DeviceWorld) -> None:
    key = new_key()
    add_grant(world.device.state / "applications.json", "shop", key=key, models=[MODEL])

    async def let_in() -> bool:
        return await status_of(world, key) == 200

    await wait_until_async(let_in, within_s=20, what="the key opens the model")
    boot = world.device.read_boot()
    assert [grant.application for grant in boot.fallback.applications] == ["shop"]
