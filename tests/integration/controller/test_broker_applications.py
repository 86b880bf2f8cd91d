"""The broker's second listener against a real mosquitto: what an application reaches, and what it does not."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import aiomqtt
import pytest

from controller.trust.broker_config import BrokerAccess
from controller.trust.broker_logins import admit, expel, logins
from shared import topics
from shared.errors import InvalidInputError, NotFoundError
from shared.ids import DeviceId
from shared.topics import Channel, device_topic, inference_filter, inference_topic
from tests.support.broker_application import KEY, OTHER_KEY, ApplicationBroker, application_session
from tests.support.fleet_broker import connected
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CAM, OTHER = DeviceId("cam-1"), DeviceId("cam-2")
TILL, DESK, RIVAL = "shop.till", "shop.desk", "rival.main"
ASKED = inference_topic(CAM, TILL)
REPLY = f"{ASKED}/reply/c1"
REPORT = device_topic(CAM, Channel.REPORT)
DESIRED = device_topic(CAM, Channel.DESIRED)
EVERYTHING = f"{topics.ROOT}/#"
# The broker ends the connection without a word, and the client waits; honest ones are in within a tenth of it.
REFUSED_S = 2.0


@pytest.fixture(scope="module")
def broker() -> Iterator[ApplicationBroker]:
    with ApplicationBroker({TILL: KEY, DESK: KEY, RIVAL: OTHER_KEY}) as running:
        yield running


def reload(broker: ApplicationBroker, times: int) -> bool:
    os.kill(broker.pid, signal.SIGHUP)
    return broker.log.count("Reloading config") > times


async def test_request_reaches_its_device_and_the_reply_its_application(broker: ApplicationBroker) -> None:
    async with (
        connected(broker, broker.device_files(CAM), subscribe=inference_filter(CAM)) as device,
        application_session(broker, TILL, KEY, subscribe=REPLY) as till,
    ):
        await till.client.publish(ASKED, b"question", qos=1)
        await device.hears(b"question")
        await device.client.publish(REPLY, b"answer", qos=1)
        await till.hears(b"answer")


async def test_attack_application_writes_anything_but_its_requests_is_not_delivered(broker: ApplicationBroker) -> None:
    forbidden = [
        inference_topic(CAM, RIVAL),
        inference_topic(CAM, DESK),
        REPLY,
        f"{inference_topic(CAM, RIVAL)}/reply/c1",
        f"{ASKED}/deeper",
        REPORT,
        DESIRED,
        topics.PULSE,
        topics.SENTINEL,
        "elsewhere",
    ]
    async with (
        connected(broker, broker.authority.controller_files(), subscribe=EVERYTHING) as controller,
        connected(broker, broker.device_files(CAM), subscribe=f"{topics.ROOT}/+/{CAM}/#") as device,
        application_session(broker, RIVAL, OTHER_KEY, subscribe="#") as rival,
        application_session(broker, TILL, KEY, subscribe="#") as till,
    ):
        for topic in forbidden:
            await till.client.publish(topic, b"evil", qos=1, retain=True)
        await till.client.publish(ASKED, b"honest", qos=1)
        await device.hears(b"honest")
        assert b"evil" not in [*device.payloads, *controller.payloads, *rival.payloads, *till.payloads]


async def test_attack_application_listens_to_everything_hears_its_replies_only(broker: ApplicationBroker) -> None:
    async with (
        application_session(broker, TILL, KEY, subscribe="#") as spy,
        application_session(broker, TILL.replace("till", "desk"), KEY) as desk,
        application_session(broker, RIVAL, OTHER_KEY) as rival,
        connected(broker, broker.authority.controller_files()) as controller,
        connected(broker, broker.device_files(CAM)) as device,
    ):
        await controller.client.publish(DESIRED, b"secret", qos=1)
        await controller.client.publish(topics.PULSE, b"secret", qos=1)
        await device.client.publish(REPORT, b"secret", qos=1)
        await rival.client.publish(inference_topic(CAM, RIVAL), b"secret", qos=1)
        await desk.client.publish(inference_topic(CAM, DESK), b"secret", qos=1)
        await device.client.publish(f"{inference_topic(CAM, RIVAL)}/reply/c1", b"secret", qos=1)
        await device.client.publish(f"{inference_topic(CAM, DESK)}/reply/c1", b"secret", qos=1)
        await device.client.publish(REPLY, b"own", qos=1)
        await spy.hears(b"own")
        assert spy.payloads == [b"own"]


async def test_attack_device_answers_for_another_or_asks_is_not_delivered(broker: ApplicationBroker) -> None:
    async with (
        application_session(broker, TILL, KEY, subscribe="#") as till,
        connected(broker, broker.device_files(CAM), subscribe=inference_filter(CAM)) as victim,
        connected(broker, broker.device_files(OTHER), subscribe="#") as attacker,
    ):
        await attacker.client.publish(REPLY, b"forged", qos=1)
        await attacker.client.publish(ASKED, b"forged", qos=1)
        await attacker.client.publish(inference_topic(OTHER, TILL), b"forged", qos=1)
        await till.client.publish(ASKED, b"question", qos=1)
        await victim.hears(b"question")
        await victim.client.publish(REPLY, b"answer", qos=1)
        await till.hears(b"answer")
        assert (till.payloads, victim.payloads, attacker.payloads) == ([b"answer"], [b"question"], [])


@pytest.mark.parametrize("identifier", [CAM, "controller", RIVAL])
async def test_attack_application_takes_anothers_client_id_does_not_cut_it_off(
    broker: ApplicationBroker, identifier: str
) -> None:
    async with (
        connected(broker, broker.device_files(CAM), identifier=CAM, subscribe=DESIRED) as device,
        connected(broker, broker.authority.controller_files(), identifier="controller") as controller,
        application_session(broker, RIVAL, OTHER_KEY, identifier=RIVAL, subscribe="#") as rival,
        application_session(broker, TILL, KEY, identifier=identifier),
    ):
        await controller.client.publish(DESIRED, b"still here", qos=1)
        await device.hears(b"still here")
        await device.client.publish(f"{inference_topic(CAM, RIVAL)}/reply/c1", b"still here", qos=1)
        await rival.hears(b"still here")


@pytest.mark.parametrize(("login", "key"), [(TILL, OTHER_KEY), (TILL, ""), ("cam-1", KEY), ("stranger.main", KEY)])
async def test_attack_application_without_its_key_is_refused(broker: ApplicationBroker, login: str, key: str) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with application_session(broker, login, key, within_s=REFUSED_S):
            pass


async def test_login_admitted_and_expelled_while_the_broker_runs(broker: ApplicationBroker) -> None:
    admit(broker.folder, "late.main", KEY)
    seen = broker.log.count("Reloading config")
    await wait_until_async(lambda: reload(broker, seen), what="the broker reads its logins")
    async with application_session(broker, "late.main", KEY):
        pass
    expel(broker.folder, "late.main")
    seen = broker.log.count("Reloading config")
    await wait_until_async(lambda: reload(broker, seen), what="the broker reads its logins")
    with pytest.raises(aiomqtt.MqttError):
        async with application_session(broker, "late.main", KEY, within_s=REFUSED_S):
            pass
    assert "late.main" not in logins(broker.folder)


async def test_removed_device_is_cut_off_beside_a_listener_for_applications(broker: ApplicationBroker) -> None:
    command = ("kill", f"-{signal.SIGHUP.value}", str(broker.pid))
    access = BrokerAccess(acl_file=broker.acl_file, reload_command=command)
    async with (
        connected(broker, broker.authority.controller_files(), subscribe=EVERYTHING) as ears,
        connected(broker, broker.device_files(OTHER)) as removed,
        connected(broker, broker.device_files(CAM)) as device,
    ):
        seen = broker.log.count("Reloading config")
        await access.deny([OTHER])
        await wait_until_async(lambda: broker.log.count("Reloading config") > seen, what="the broker reads its ACL")
        await removed.client.publish(device_topic(OTHER, Channel.REPORT), b"after", qos=1)
        await device.client.publish(REPORT, b"control", qos=1)
        await ears.hears(b"control")
        assert b"after" not in ears.payloads
    await access.deny([])


@pytest.mark.parametrize(
    "login", ["cam-1", "controller", "a.b.c", "shop.", "+.till", "shop.till:x", "shop.#", "Shop.x"]
)
def test_login_that_could_be_a_device_or_reach_further_is_refused(broker: ApplicationBroker, login: str) -> None:
    with pytest.raises(InvalidInputError, match="login"):
        admit(broker.folder, login, KEY)


def test_key_that_could_be_guessed_is_refused(broker: ApplicationBroker) -> None:
    with pytest.raises(InvalidInputError, match="characters"):
        admit(broker.folder, TILL, "secret")


def test_login_of_a_broker_without_applications_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="broker_application_port"):
        admit(tmp_path, TILL, KEY)


def test_expelling_a_stranger_is_told(broker: ApplicationBroker) -> None:
    with pytest.raises(NotFoundError):
        expel(broker.folder, "stranger.main")


def test_keys_stand_nowhere_in_the_brokers_folder(broker: ApplicationBroker) -> None:
    files = [path for path in broker.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
