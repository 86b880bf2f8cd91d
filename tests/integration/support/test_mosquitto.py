"""The throw-away broker is a real one."""

from __future__ import annotations

import asyncio
import os

import aiomqtt
import pytest

from tests.support.mosquitto import Mosquitto
from tests.support.ports import accepts_connections
from tests.support.waiting import wait_until

ROUND_TRIP_S = 10


async def retained_message(broker: Mosquitto, topic: str, payload: bytes) -> bytes:
    """Publish retained in one session, and return what another session finds."""
    async with asyncio.timeout(ROUND_TRIP_S):
        async with aiomqtt.Client(broker.host, broker.port) as sender:
            await sender.publish(topic, payload, qos=1, retain=True)
        async with aiomqtt.Client(broker.host, broker.port) as receiver:
            await receiver.subscribe(topic)
            message = await anext(aiter(receiver.messages))
    assert isinstance(message.payload, bytes)
    return message.payload


async def test_broker_retained_message_reaches_later_subscriber(mosquitto: Mosquitto) -> None:
    assert await retained_message(mosquitto, "support/retained", b"kept") == b"kept"


def test_broker_killed_and_started_keeps_its_port() -> None:
    with Mosquitto() as broker:
        port = broker.port
        broker.kill()
        wait_until(lambda: not accepts_connections(port), what="the port is closed")
        broker.start()
        assert broker.port == port
        assert accepts_connections(port)


def test_broker_left_has_ended_and_taken_its_folder_along() -> None:
    with Mosquitto() as broker:
        pid, folder = broker.pid, broker.folder
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_broker_given_configuration_obeys_it() -> None:
    with Mosquitto("allow_anonymous false\n") as broker, pytest.raises(aiomqtt.MqttError, match="authori"):
        await retained_message(broker, "support/closed", b"")


def test_broker_given_nonsense_says_what_mosquitto_said() -> None:
    with pytest.raises(RuntimeError, match="nonsense"), Mosquitto("nonsense yes\n"):
        pytest.fail("a broker ran on a configuration that it cannot read")
