"""The controller's connection, through a real mosquitto over mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest
import pytest_asyncio

from controller.desired.publisher import DesiredPublisher
from controller.facts import OutgoingMessage
from controller.fleet.uplinks import Uplinks
from controller.ingest import Ingest, Sinks
from controller.mqtt import BrokerLink, PasswordLogin
from controller.trust.tls import client_context
from shared import topics
from shared.clock import SystemClock
from shared.errors import InvalidInputError
from shared.topics import Channel, device_topic
from shared.wire import Acked
from tests.support.database import opened_database, sqlite_url
from tests.support.fleet_broker import FleetBroker, connected
from tests.support.fleet_world import FleetWorld, TestClock, heartbeat, intent, report
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Linked:
    """A controller's loops, running against the broker."""

    world: FleetWorld
    link: BrokerLink
    publisher: DesiredPublisher
    ingest: Ingest


@pytest.fixture
def broker() -> Iterator[FleetBroker]:
    with FleetBroker() as running:
        yield running


@contextlib.asynccontextmanager
async def running(*loops: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run loops beside the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@pytest_asyncio.fixture
async def linked(broker: FleetBroker, tmp_path: Path) -> AsyncIterator[Linked]:
    clock = TestClock(SystemClock().now())
    link = BrokerLink(
        host=broker.host,
        port=broker.port,
        security=client_context(broker.authority.controller_files()),
        clock=SystemClock(),
    )
    async with opened_database(sqlite_url(tmp_path), clock=clock) as database:
        world = FleetWorld(database, clock, tmp_path)
        uplinks = Uplinks()
        sinks = Sinks(
            reports=(uplinks, world.reports),
            heartbeats=(uplinks.seen, world.desired.observed),
            telemetry=world.telemetry,
        )
        ingest = Ingest(
            database=database, source=link, proof=world.trust.report_keys, order=uplinks, sinks=sinks, clock=clock
        )
        publisher = DesiredPublisher(database=database, desired=world.desired, broker=link)
        async with running(link.run(), ingest.run(), publisher.run()):
            await wait_until_async(lambda: link.connected, what="the link is up")
            yield Linked(world, link, publisher, ingest)


async def test_report_over_the_broker_is_stored_and_acknowledged(broker: FleetBroker, linked: Linked) -> None:
    device = await linked.world.device("cam-1")
    acked = device_topic(device.device_id, Channel.ACKED)
    async with connected(broker, broker.device_files("cam-1"), subscribe=acked) as client:
        message = device.says(Channel.REPORT, report())
        await client.client.publish(message.topic, message.payload, qos=1)
        await wait_until_async(lambda: client.heard, what="the acknowledgement arrives")
    assert msgspec.json.decode(client.payloads[0], type=Acked) == Acked(boot_id=device.boot_id, acked_seq=1)
    assert [said.device_id for said in linked.world.reports.taken] == ["cam-1"]


async def test_burst_of_heartbeats_is_taken_in_whole(broker: FleetBroker, linked: Linked) -> None:
    devices = [await linked.world.device(f"cam-{number}") for number in range(4)]
    for device in devices:
        async with connected(broker, broker.device_files(device.device_id)) as client:
            for _ in range(100):
                message = device.says(Channel.HEARTBEAT, heartbeat())
                await client.client.publish(message.topic, message.payload, qos=0)
            last = device.says(Channel.REPORT, report())
            await client.client.publish(last.topic, last.payload, qos=1)
    await wait_until_async(lambda: len(linked.world.reports.taken) == len(devices), what="all reports are stored")
    assert linked.ingest.dropped == {}
    assert set(linked.link.inbox.dropped().values()) == {0}


async def test_desired_is_published_and_kept_for_a_device_that_comes_later(broker: FleetBroker, linked: Linked) -> None:
    device = await linked.world.device("cam-1")
    await linked.world.desire(intent(device.device_id))
    topic = device_topic(device.device_id, Channel.DESIRED)
    sealed = await linked.world.desired.sealed_for(device.device_id)
    assert sealed is not None
    async with connected(broker, broker.device_files("cam-1"), subscribe=topic) as client:
        await client.hears(sealed)


async def test_broker_killed_and_emptied_is_given_everything_again(broker: FleetBroker, linked: Linked) -> None:
    device = await linked.world.device("cam-1")
    await linked.world.desire(intent(device.device_id))
    topic = device_topic(device.device_id, Channel.DESIRED)
    sealed = await linked.world.desired.sealed_for(device.device_id)
    assert sealed is not None
    async with connected(broker, broker.device_files("cam-1"), subscribe=topic) as client:
        await client.hears(sealed)
    broker.kill()
    await wait_until_async(lambda: not linked.link.connected, what="the link notices")
    (broker.folder / "mosquitto.db").unlink(missing_ok=True)
    (broker.folder / "data" / "mosquitto.db").unlink(missing_ok=True)
    broker.start()
    await wait_until_async(lambda: linked.link.connected, within_s=20, what="the link is up again")
    async with connected(broker, broker.device_files("cam-1"), subscribe=topic) as client:
        await client.hears(sealed)
    async with connected(broker, broker.authority.controller_files(), subscribe=topics.SENTINEL) as ears:
        await wait_until_async(lambda: ears.heard, what="the sentinel stands again")


async def test_publishing_many_is_confirmed_one_by_one(broker: FleetBroker, linked: Linked) -> None:
    topic = device_topic((await linked.world.device("cam-1")).device_id, Channel.DESIRED)
    messages = [OutgoingMessage(topic=topic, payload=b"%d" % number, retain=False) for number in range(1500)]
    assert await linked.link.publish(messages) == [True] * 1500
    assert broker.pid


def test_attack_password_to_another_machine_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="in the clear"):
        BrokerLink(
            host="broker.example", port=1883, security=PasswordLogin(user="u", password="p"), clock=SystemClock()
        )
