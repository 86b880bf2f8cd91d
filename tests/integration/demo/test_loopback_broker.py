"""The demo's broker where mosquitto is missing: what counts is which messages arrive, and who gets in at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiomqtt
import pytest

from controller.trust.authority import Authority
from shared import topics
from shared.clock import SystemClock
from shared.ids import DeviceId
from shared.topics import Channel, device_topic
from tests.support.fleet_broker import connected
from tests.support.loopback_broker import LoopbackBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CAM, OTHER = DeviceId("cam-1"), DeviceId("cam-2")
REPORT = device_topic(CAM, Channel.REPORT)
DESIRED = device_topic(CAM, Channel.DESIRED)
# A refused client waits for an answer that does not come; honest ones are in within a tenth of it.
REFUSED_S = 3.0


@pytest.fixture(scope="module")
def broker() -> Iterator[LoopbackBroker]:
    with LoopbackBroker() as running:
        yield running


async def test_report_and_desired_reach_whom_they_are_for(broker: LoopbackBroker) -> None:
    async with (
        connected(broker, broker.authority.controller_files(), subscribe=topics.uplink_filter()) as controller,
        connected(broker, broker.device_files(CAM), identifier=CAM, subscribe=DESIRED) as device,
    ):
        await device.client.publish(REPORT, b"mine", qos=1)
        await controller.hears(b"mine")
        await controller.client.publish(DESIRED, b"sealed", qos=1)
        await device.hears(b"sealed")


async def test_desired_is_kept_for_a_device_that_comes_later(broker: LoopbackBroker) -> None:
    topic = device_topic(DeviceId("cam-3"), Channel.DESIRED)
    async with connected(broker, broker.authority.controller_files()) as controller:
        await controller.client.publish(topic, b"kept", qos=1, retain=True)
    async with connected(broker, broker.device_files("cam-3"), identifier="cam-3", subscribe=topic) as device:
        await device.hears(b"kept")


async def test_attack_device_reports_as_another_is_not_delivered(broker: LoopbackBroker) -> None:
    async with (
        connected(broker, broker.authority.controller_files(), subscribe=f"{topics.ROOT}/#") as ears,
        connected(broker, broker.device_files(OTHER), identifier=OTHER) as attacker,
    ):
        await attacker.client.publish(REPORT, b"spoofed", qos=0)
        await attacker.client.publish(device_topic(OTHER, Channel.REPORT), b"control", qos=0)
        await ears.hears(b"control")
        assert b"spoofed" not in ears.payloads


async def test_attack_device_commands_another_is_not_delivered(broker: LoopbackBroker) -> None:
    async with (
        connected(broker, broker.device_files(CAM), identifier=CAM, subscribe=DESIRED) as victim,
        connected(broker, broker.device_files(OTHER), identifier=OTHER) as attacker,
        connected(broker, broker.authority.controller_files(), subscribe=topics.uplink_filter()) as honest,
    ):
        await attacker.client.publish(DESIRED, b"evil", qos=0)
        # What arrives later over the same connection proves that the first was dealt with.
        await attacker.client.publish(device_topic(OTHER, Channel.REPORT), b"after", qos=0)
        await honest.hears(b"after")
        await honest.client.publish(DESIRED, b"good", qos=1)
        await victim.hears(b"good")
        assert b"evil" not in victim.payloads


async def test_attack_device_asks_for_what_is_kept_for_others_hears_its_own_only(broker: LoopbackBroker) -> None:
    own, others = (device_topic(DeviceId(name), Channel.DESIRED) for name in ("cam-4", "cam-5"))
    async with connected(broker, broker.authority.controller_files(), subscribe=others) as controller:
        await controller.client.publish(others, b"kept for another", qos=1, retain=True)
        await controller.client.publish(own, b"kept for it", qos=1, retain=True)
        await controller.hears(b"kept for another")
        async with connected(
            broker, broker.device_files("cam-4"), identifier="cam-4", subscribe=f"{topics.ROOT}/#"
        ) as spy:
            await spy.hears(b"kept for it")
            await controller.client.publish(own, b"and now", qos=1)
            await spy.hears(b"and now")
            assert spy.payloads == [b"kept for it", b"and now"]


async def test_attack_device_beats_the_pulse_itself_is_not_delivered(broker: LoopbackBroker) -> None:
    async with (
        connected(broker, broker.device_files(CAM), identifier=CAM, subscribe=topics.PULSE) as victim,
        connected(broker, broker.authority.controller_files()) as honest,
    ):
        await victim.client.publish(topics.PULSE, b"all is well", qos=0)
        await honest.client.publish(topics.PULSE, b"pulse", qos=1)
        await victim.hears(b"pulse")
        assert victim.payloads == [b"pulse"]


async def test_attack_device_listens_to_everything_hears_its_own_only(broker: LoopbackBroker) -> None:
    async with (
        connected(broker, broker.device_files(OTHER), identifier=OTHER, subscribe=f"{topics.ROOT}/#") as spy,
        connected(broker, broker.authority.controller_files(), subscribe=topics.uplink_filter()) as honest,
        connected(broker, broker.device_files(CAM), identifier=CAM) as device,
    ):
        await honest.client.publish(DESIRED, b"secret", qos=1)
        await device.client.publish(REPORT, b"secret too", qos=0)
        await honest.hears(b"secret too")
        await honest.client.publish(device_topic(OTHER, Channel.DESIRED), b"own", qos=1)
        await spy.hears(b"own")
        assert {b"secret", b"secret too"}.isdisjoint(spy.payloads)


@pytest.mark.parametrize("name", ["controller", CAM])
async def test_attack_device_under_another_name_is_refused(broker: LoopbackBroker, name: str) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with connected(broker, broker.device_files(OTHER), identifier=name, username=name, within_s=REFUSED_S):
            pass


async def test_attack_client_without_a_certificate_is_refused(broker: LoopbackBroker) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with connected(broker, None, identifier=CAM, within_s=REFUSED_S):
            pass


async def test_attack_certificate_of_another_authority_is_refused(broker: LoopbackBroker, tmp_path: Path) -> None:
    stranger = Authority.open(tmp_path / "authority", SystemClock())
    with pytest.raises(aiomqtt.MqttError):
        async with connected(broker, broker.device_files(CAM, stranger), identifier=CAM, within_s=REFUSED_S):
            pass
