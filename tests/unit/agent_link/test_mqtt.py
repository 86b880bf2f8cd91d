from __future__ import annotations

import asyncio
import random

import pytest

from agent.link.identity import BrokerAddress
from agent.link.mqtt import MqttLink, PlainLogin
from shared.ids import DeviceId


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
