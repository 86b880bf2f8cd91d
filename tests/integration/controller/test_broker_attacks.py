"""The broker's configuration against a real mosquitto: what counts is which messages arrive, not what it says."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt
import pytest

from controller.trust.authority import Authority
from controller.trust.broker_config import BrokerAccess, access_list, broker_config
from shared import topics
from shared.clock import SystemClock
from shared.ids import DeviceId
from shared.topics import Channel, device_topic
from tests.support.fleet_broker import FleetBroker, connected
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

CAM, OTHER = DeviceId("cam-1"), DeviceId("cam-2")
REPORT = device_topic(CAM, Channel.REPORT)
DESIRED = device_topic(CAM, Channel.DESIRED)
# The broker ends the connection without a word, and the client waits; honest ones are in within a tenth of it.
REFUSED_S = 2.0
EVERYTHING = f"{topics.ROOT}/#"


@pytest.fixture(scope="module")
def broker() -> Iterator[FleetBroker]:
    with FleetBroker() as running:
        yield running


async def test_device_report_reaches_the_controller(broker: FleetBroker) -> None:
    controller = broker.authority.controller_files()
    async with (
        connected(broker, controller, subscribe=topics.uplink_filter()) as ears,
        connected(broker, broker.device_files(CAM)) as device,
    ):
        await device.client.publish(REPORT, b"mine", qos=1)
        await ears.hears(b"mine")


async def test_controller_desired_reaches_its_device(broker: FleetBroker) -> None:
    async with (
        connected(broker, broker.device_files(CAM), subscribe=DESIRED) as device,
        connected(broker, broker.authority.controller_files()) as controller,
    ):
        await controller.client.publish(DESIRED, b"sealed", qos=1)
        await device.hears(b"sealed")


async def test_attack_device_reports_as_another_is_not_delivered(broker: FleetBroker) -> None:
    controller = broker.authority.controller_files()
    async with (
        connected(broker, controller, subscribe=EVERYTHING) as ears,
        connected(broker, broker.device_files(OTHER)) as attacker,
    ):
        await attacker.client.publish(REPORT, b"spoofed", qos=1)
        await attacker.client.publish(device_topic(OTHER, Channel.REPORT), b"control", qos=1)
        await ears.hears(b"control")
        assert b"spoofed" not in ears.payloads


async def test_attack_device_commands_another_is_not_delivered(broker: FleetBroker) -> None:
    controller = broker.authority.controller_files()
    async with (
        connected(broker, broker.device_files(CAM), subscribe=DESIRED) as victim,
        connected(broker, broker.device_files(OTHER)) as attacker,
        connected(broker, controller) as honest,
    ):
        await attacker.client.publish(DESIRED, b"evil", qos=1)
        await honest.client.publish(DESIRED, b"good", qos=1)
        await victim.hears(b"good")
        assert b"evil" not in victim.payloads


async def test_attack_device_commands_itself_or_the_fleet_is_not_delivered(broker: FleetBroker) -> None:
    controller = broker.authority.controller_files()
    async with (
        connected(broker, broker.device_files(CAM), subscribe=EVERYTHING) as victim,
        connected(broker, controller) as honest,
    ):
        await victim.client.publish(DESIRED, b"self-service", qos=1)
        await victim.client.publish(topics.PULSE, b"all is well", qos=1)
        await victim.client.publish(topics.SENTINEL, b"nothing was lost", qos=1, retain=True)
        await honest.client.publish(topics.PULSE, b"pulse", qos=1)
        await victim.hears(b"pulse")
        assert victim.payloads == [b"pulse"]


async def test_attack_device_listens_to_everything_hears_its_own_only(broker: FleetBroker) -> None:
    controller = broker.authority.controller_files()
    async with (
        connected(broker, broker.device_files(OTHER), subscribe="#") as spy,
        connected(broker, controller) as honest,
        connected(broker, broker.device_files(CAM)) as device,
    ):
        await honest.client.publish(DESIRED, b"secret", qos=1)
        await device.client.publish(REPORT, b"secret too", qos=1)
        await honest.client.publish(device_topic(OTHER, Channel.DESIRED), b"own", qos=1)
        await spy.hears(b"own")
        assert spy.payloads == [b"own"]


async def test_attack_device_calls_itself_controller_is_still_a_device(broker: FleetBroker) -> None:
    async with (
        connected(broker, broker.device_files(CAM), subscribe=DESIRED) as victim,
        connected(broker, broker.device_files(OTHER), username="controller", identifier="controller") as attacker,
        connected(broker, broker.authority.controller_files()) as honest,
    ):
        await attacker.client.publish(DESIRED, b"evil", qos=1)
        await honest.client.publish(DESIRED, b"good", qos=1)
        await victim.hears(b"good")
        assert b"evil" not in victim.payloads


async def test_attack_device_takes_the_client_id_of_another_does_not_cut_it_off(broker: FleetBroker) -> None:
    async with (
        connected(broker, broker.device_files(CAM), identifier=CAM, subscribe=DESIRED) as victim,
        connected(broker, broker.device_files(OTHER), identifier=CAM),
        connected(broker, broker.authority.controller_files()) as honest,
    ):
        await honest.client.publish(DESIRED, b"still here", qos=1)
        await victim.hears(b"still here")


async def test_attack_client_without_a_certificate_is_refused(broker: FleetBroker) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with connected(broker, None, within_s=REFUSED_S):
            pass


async def test_attack_certificate_of_another_authority_is_refused(broker: FleetBroker, tmp_path: Path) -> None:
    stranger = Authority.open(tmp_path / "authority", SystemClock())
    with pytest.raises(aiomqtt.MqttError):
        async with connected(broker, broker.device_files(CAM, stranger), within_s=REFUSED_S):
            pass


async def test_attack_server_certificate_used_by_a_client_is_refused(broker: FleetBroker) -> None:
    files = broker.authority.server_files("broker", ["127.0.0.1", "localhost"])
    with pytest.raises(aiomqtt.MqttError):
        async with connected(broker, files, within_s=REFUSED_S):
            pass


async def test_denied_device_is_cut_off_while_connected(broker: FleetBroker) -> None:
    access = BrokerAccess(acl_file=broker.acl_file, reload_command=("kill", f"-{signal.SIGHUP.value}", str(broker.pid)))
    controller = broker.authority.controller_files()
    async with (
        connected(broker, controller, subscribe=EVERYTHING) as ears,
        connected(broker, broker.device_files(OTHER)) as removed,
        connected(broker, broker.device_files(CAM)) as device,
    ):
        await removed.client.publish(device_topic(OTHER, Channel.REPORT), b"before", qos=1)
        await ears.hears(b"before")
        await access.deny([OTHER])
        await wait_until_async(lambda: "Reloading config" in broker.log, what="the broker reads its ACL again")
        await removed.client.publish(device_topic(OTHER, Channel.REPORT), b"after", qos=1)
        await device.client.publish(REPORT, b"control", qos=1)
        await ears.hears(b"control")
        assert b"after" not in ears.payloads
    await access.deny([])


async def test_access_without_a_file_or_a_way_to_reload_only_says_so(tmp_path: Path) -> None:
    await BrokerAccess(acl_file=None).deny([CAM])
    await BrokerAccess(acl_file=tmp_path / "acl").deny([CAM])
    assert f"user {CAM}" in (tmp_path / "acl").read_text()


async def test_access_with_a_broken_reload_command_still_writes_the_file(tmp_path: Path) -> None:
    for command in (("false",), ("/no/such/program",)):
        await BrokerAccess(acl_file=tmp_path / "acl", reload_command=command).deny([CAM])
        assert f"user {CAM}" in (tmp_path / "acl").read_text()


def test_configuration_shown_in_deploy_is_the_one_that_is_written() -> None:
    shown = Path(__file__).parents[3] / "deploy" / "mosquitto"
    written = broker_config(Path("/etc/mosquitto/litefleet"), host="0.0.0.0", port=8883)
    assert (shown / "mosquitto.conf").read_text() == written.replace("user root\n", "")
    assert (shown / "acl").read_text() == access_list([])
