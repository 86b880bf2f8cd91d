"""Outbox, link and a real broker together: nothing is lost by a broker that dies or a controller that is deaf."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiomqtt
import msgspec

from agent.link.https import Session
from agent.link.identity import BrokerAddress
from agent.link.mqtt import AckArrived, Connected, LinkEvent, MqttLink
from agent.link.outbox import Outbox, OutboxTimes
from shared.clock import SystemClock
from shared.hardware import DeviceHardware, Runtime
from shared.ids import BootId, DeviceId, Epoch, Generation
from shared.topics import Channel, device_topic
from shared.wire import NO_BODY, Acked, Report, Uplink
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEVICE = DeviceId("outbox-1")
BOOT = BootId("000000000001")
ANSWER_S = 20.0


class Device:
    """Link and outbox, joined as the control process joins them."""

    def __init__(self, broker: Mosquitto) -> None:
        address = BrokerAddress(host=broker.host, port=broker.port, tls=False)
        self.link = MqttLink(broker=address, device_id=DEVICE, security=None, chance=random.Random(1))
        self.outbox = Outbox(
            device_id=DEVICE,
            session=Session(boot_id=BOOT, mac_key=b"k"),
            publish=self.link.publish,
            clock=SystemClock(),
            chance=random.Random(2),
            times=OutboxTimes(resend_first_s=0.2, resend_ceiling_s=1.0),
        )
        self.confirmed: list[int] = []

    async def hear(self, event: LinkEvent) -> None:
        match event:
            case Connected():
                self.outbox.connected()
            case AckArrived(acked=acked):
                revision = self.outbox.acknowledged(acked)
                if revision is not None:
                    self.confirmed.append(revision)
            case _:
                return


@asynccontextmanager
async def running(broker: Mosquitto) -> AsyncIterator[Device]:
    device = Device(broker)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(device.link.run(device.hear)), group.create_task(device.outbox.run())]
        yield device
        for task in tasks:
            task.cancel()


def report(generation: int) -> Report:
    hardware = DeviceHardware(
        architecture="x86_64", memory_bytes=1, cores=1, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
    )
    return Report(
        epoch=Epoch(1), generation=Generation(generation), body_digest=NO_BODY, agent_version="0", hardware=hardware
    )


async def receive(listener: aiomqtt.Client) -> tuple[int, int]:
    """Return number and generation of the next report."""
    async with asyncio.timeout(ANSWER_S):
        message = await anext(aiter(listener.messages))
    uplink = msgspec.json.decode(message.payload, type=Uplink)
    return uplink.seq, msgspec.json.decode(uplink.body, type=Report).generation


async def acknowledge(listener: aiomqtt.Client, seq: int) -> None:
    acked = msgspec.json.encode(Acked(boot_id=BOOT, acked_seq=seq))
    await listener.publish(device_topic(DEVICE, Channel.ACKED), acked)


async def test_report_whose_acknowledgement_is_lost_comes_again_and_is_confirmed_once(mosquitto: Mosquitto) -> None:
    async with aiomqtt.Client(mosquitto.host, mosquitto.port) as controller:
        await controller.subscribe(device_topic(DEVICE, Channel.REPORT))
        async with running(mosquitto) as device:
            device.outbox.report(report(5), revision=9)
            lost, generation = await receive(controller)
            again, same = await receive(controller)
            assert (generation, same) == (5, 5)
            assert again > lost
            for _ in range(3):
                await acknowledge(controller, again)
            await wait_until_async(lambda: device.confirmed)
            device.outbox.report(report(6), revision=10)
            seq = again
            while generation != 6:
                seq, generation = await receive(controller)
            await acknowledge(controller, seq)
            await wait_until_async(lambda: 10 in device.confirmed)
            assert device.confirmed == [9, 10]


async def test_report_made_while_the_broker_is_dead_arrives_after_it_is_back() -> None:
    with Mosquitto() as broker:
        async with running(broker) as device:
            await wait_until_async(lambda: device.link.connected)
            broker.kill()
            await wait_until_async(lambda: not device.link.connected)
            device.outbox.report(report(1), revision=1)
            device.outbox.report(report(2), revision=2)
            broker.start()
            async with aiomqtt.Client(broker.host, broker.port) as controller:
                await controller.subscribe(device_topic(DEVICE, Channel.REPORT))
                seq, generation = await receive(controller)
                assert generation == 2
                await acknowledge(controller, seq)
                await wait_until_async(lambda: device.confirmed == [2])
