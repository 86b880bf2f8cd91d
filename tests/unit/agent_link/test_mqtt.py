from __future__ import annotations

import asyncio
import random

import aiomqtt
import pytest

from agent.link.identity import BrokerAddress
from agent.link.mqtt import FleetFirst, MqttLink, PlainLogin
from shared.ids import DeviceId
from shared.topics import PULSE, Channel, device_topic, inference_topic

CAM = DeviceId("door-7")


class Swallowing:
    """A client whose wait ends at the very moment of a cancellation, and says nothing of it."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()

    async def publish(self, _topic: str, _payload: bytes, **_options: object) -> None:
        try:
            self.waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return


async def test_publish_canceled_ends_although_the_library_swallows_it() -> None:
    link = MqttLink(
        broker=BrokerAddress(host="127.0.0.1", port=1, tls=False),
        device_id=DeviceId("door-7"),
        security=PlainLogin(password="secret"),
        chance=random.Random(1),
    )
    client = Swallowing()
    link._client = client  # type: ignore[assignment]  # stands in for aiomqtt's at its worst
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(link.publish("lf/v1/a", b"x"))
        await client.waiting.wait()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing


def message(topic: str) -> aiomqtt.Message:
    return aiomqtt.Message(topic=topic, payload=b"x", qos=1, retain=False, mid=1, properties=None)


async def test_attack_flood_of_requests_leaves_room_for_what_the_fleet_says() -> None:
    waiting = FleetFirst(maxsize=8)
    for _ in range(4):
        waiting.put_nowait(message(inference_topic(CAM, "shop.till")))
    with pytest.raises(asyncio.QueueFull):
        waiting.put_nowait(message(inference_topic(CAM, "shop.till")))
    for topic in (PULSE, device_topic(CAM, Channel.DESIRED), device_topic(CAM, Channel.ACKED), PULSE):
        waiting.put_nowait(message(topic))
    with pytest.raises(asyncio.QueueFull):
        waiting.put_nowait(message(PULSE))
