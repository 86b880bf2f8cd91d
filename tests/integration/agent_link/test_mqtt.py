"""The link to a real mosquitto: mTLS, cuts, refusals, and what comes through."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import aiomqtt
import msgspec
import pytest

from agent.link.identity import BrokerAddress, client_tls, identity_files
from agent.link.mqtt import (
    AckArrived,
    Connected,
    Disconnected,
    LinkEvent,
    MqttLink,
    PlainLogin,
    SealedDesired,
    SealedPulse,
)
from shared.errors import InvalidInputError, UnreachableError
from shared.ids import BootId, DeviceId
from shared.signing import MAX_SEALED_BYTES
from shared.topics import PULSE, Channel, device_topic
from shared.wire import Acked
from tests.support.authority import Authority
from tests.support.device_api import DeviceServer
from tests.support.mosquitto import Mosquitto
from tests.support.programs import find_program
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

ANSWER_S = 10.0


class Ear:
    """Keeps every event of a link."""

    def __init__(self) -> None:
        self.events: list[LinkEvent] = []

    async def hear(self, event: LinkEvent) -> None:
        self.events.append(event)

    def count(self, kind: type[LinkEvent]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    async def wait_for(self, event: LinkEvent) -> None:
        await wait_until_async(lambda: event in self.events, what=f"{event} among {self.events[-5:]}")

    async def wait_for_count(self, kind: type[LinkEvent], count: int) -> Self:
        await wait_until_async(lambda: self.count(kind) >= count, what=f"{count} {kind.__name__}", within_s=20.0)
        return self


@asynccontextmanager
async def running(
    address: BrokerAddress, device: DeviceId, security: ssl.SSLContext | PlainLogin | None = None
) -> AsyncIterator[tuple[MqttLink, Ear]]:
    link = MqttLink(broker=address, device_id=device, security=security, chance=random.Random(1))
    ear = Ear()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(link.run(ear.hear))
        yield link, ear
        task.cancel()


async def say(broker: Mosquitto, topic: str, payload: bytes, *, retain: bool = False) -> None:
    async with asyncio.timeout(ANSWER_S), aiomqtt.Client(broker.host, broker.port) as client:
        await client.publish(topic, payload, qos=1, retain=retain)


def plain(broker: Mosquitto) -> BrokerAddress:
    return BrokerAddress(host=broker.host, port=broker.port, tls=False)


async def test_retained_desired_and_pulse_come_with_the_connection(mosquitto: Mosquitto) -> None:
    device = DeviceId("link-retained")
    await say(mosquitto, device_topic(device, Channel.DESIRED), b"desired", retain=True)
    await say(mosquitto, PULSE, b"pulse", retain=True)
    async with running(plain(mosquitto), device) as (_, ear):
        await ear.wait_for(SealedDesired(sealed=b"desired"))
        await ear.wait_for(SealedPulse(sealed=b"pulse"))
        assert ear.events[0] == Connected()
    await say(mosquitto, PULSE, b"", retain=True)


async def test_acknowledgement_comes_decoded(mosquitto: Mosquitto) -> None:
    device, acked = DeviceId("link-acked"), Acked(boot_id=BootId("000000000001"), acked_seq=4)
    async with running(plain(mosquitto), device) as (_, ear):
        await ear.wait_for_count(Connected, 1)
        await say(mosquitto, device_topic(device, Channel.ACKED), msgspec.json.encode(acked))
        await ear.wait_for(AckArrived(acked=acked))


async def test_unusable_messages_are_passed_over(mosquitto: Mosquitto) -> None:
    device = DeviceId("link-nonsense")
    desired, acked = device_topic(device, Channel.DESIRED), device_topic(device, Channel.ACKED)
    async with running(plain(mosquitto), device) as (_, ear):
        await ear.wait_for_count(Connected, 1)
        await say(mosquitto, desired, b"", retain=True)
        await say(mosquitto, desired, b"x" * (MAX_SEALED_BYTES + 1))
        await say(mosquitto, acked, b"\xff not json")
        await say(mosquitto, acked, b'{"acked_seq": "four"}')
        await say(mosquitto, acked, b'{"boot_id": "\xff", "acked_seq": 4}')
        await say(mosquitto, acked, b'{"x":' + b"[" * 60_000)
        await say(mosquitto, desired, b"fine")
        await ear.wait_for(SealedDesired(sealed=b"fine"))
        assert ear.events[1:] == [SealedDesired(sealed=b"fine")]


async def test_messages_for_another_device_do_not_come(mosquitto: Mosquitto) -> None:
    device = DeviceId("link-mine")
    async with running(plain(mosquitto), device) as (_, ear):
        await ear.wait_for_count(Connected, 1)
        await say(mosquitto, device_topic(DeviceId("link-other"), Channel.DESIRED), b"theirs")
        await say(mosquitto, device_topic(device, Channel.DESIRED), b"mine")
        await ear.wait_for(SealedDesired(sealed=b"mine"))
        assert ear.count(SealedDesired) == 1


async def test_publish_reaches_whoever_listens(mosquitto: Mosquitto) -> None:
    device = DeviceId("link-publish")
    topic = device_topic(device, Channel.REPORT)
    async with (
        asyncio.timeout(ANSWER_S),
        aiomqtt.Client(mosquitto.host, mosquitto.port) as listener,
        running(plain(mosquitto), device) as (link, ear),
    ):
        await listener.subscribe(topic)
        await ear.wait_for_count(Connected, 1)
        await link.publish(topic, b"hello")
        message = await anext(aiter(listener.messages))
        assert message.payload == b"hello"


async def test_publish_without_connection_is_unreachable() -> None:
    link = MqttLink(
        broker=BrokerAddress(host="localhost", port=1, tls=False),
        device_id=DeviceId("dev-1"),
        security=None,
        chance=random.Random(1),
    )
    assert not link.connected
    with pytest.raises(UnreachableError, match="away"):
        await link.publish("t", b"x")


async def test_broker_absent_then_there_is_found() -> None:
    with Mosquitto() as broker:
        broker.stop()
        device = DeviceId("link-absent")
        async with running(plain(broker), device) as (link, ear):
            await ear.wait_for_count(Disconnected, 2)
            assert not link.connected
            broker.start()
            await ear.wait_for_count(Connected, 1)
            await link.publish(device_topic(device, Channel.HEARTBEAT), b"back")


async def test_broker_killed_and_back_is_subscribed_to_again() -> None:
    with Mosquitto() as broker:
        device = DeviceId("link-killed")
        async with running(plain(broker), device) as (link, ear):
            await ear.wait_for_count(Connected, 1)
            broker.kill()
            await ear.wait_for_count(Disconnected, 1)
            assert not link.connected
            broker.start()
            await ear.wait_for_count(Connected, 2)
            await say(broker, device_topic(device, Channel.DESIRED), b"after")
            await ear.wait_for(SealedDesired(sealed=b"after"))


async def test_link_to_a_broker_that_hangs_ends_when_cancelled() -> None:
    with Mosquitto() as broker:
        link = MqttLink(broker=plain(broker), device_id=DeviceId("link-hangs"), security=None, chance=random.Random(1))
        ear = Ear()
        async with asyncio.timeout(30.0), asyncio.TaskGroup() as group:
            task = group.create_task(link.run(ear.hear))
            await ear.wait_for_count(Connected, 1)
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                task.cancel()
                await wait_until_async(task.done, within_s=20.0)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
        assert task.cancelled()


class SecureBroker:
    """mosquitto with mTLS and the product's rules of who may say and hear what, and a device for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        certificate, key = self.authority.write_server(folder)
        rules = folder / "acl"
        rules.write_text("pattern write lf/v1/+/%u/up/#\npattern read lf/v1/+/%u/down/#\ntopic read lf/v1/pulse\n")
        rules.chmod(0o700)
        self.config = "\n".join(
            [
                f"cafile {folder / 'ca.pem'}",
                f"certfile {certificate}",
                f"keyfile {key}",
                "require_certificate true",
                "use_identity_as_username true",
                "allow_anonymous false",
                f"acl_file {rules}",
                "",
            ]
        )

    def tls(self, device: str, authority: Authority | None = None) -> ssl.SSLContext:
        state = self.folder / device
        server = DeviceServer(self.folder, authority=authority or self.authority)
        server.enrol_here(state, device)
        (state / "identity" / "ca.pem").write_text(self.authority.pem)
        return client_tls(identity_files(state))


async def test_link_with_certificate_speaks_over_tls(tmp_path: Path) -> None:
    secure = SecureBroker(tmp_path)
    with Mosquitto(secure.config) as broker:
        address = BrokerAddress(host="localhost", port=broker.port, tls=True)
        one, two = DeviceId("dev-1"), DeviceId("dev-2")
        async with running(address, one, secure.tls(one)) as (link, ear):
            async with running(address, two, secure.tls(two)) as (other, _):
                await ear.wait_for_count(Connected, 1)
                await wait_until_async(lambda: other.connected)
                # A broker that keeps its rules gives neither device the other's topics.
                await other.publish(device_topic(one, Channel.DESIRED), b"forged")
                await link.publish(device_topic(one, Channel.REPORT), b"fine")
            assert ear.events == [Connected()]


async def test_link_with_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    secure = SecureBroker(tmp_path)
    with Mosquitto(secure.config) as broker:
        address = BrokerAddress(host="localhost", port=broker.port, tls=True)
        async with running(address, DeviceId("dev-1"), secure.tls("dev-1", Authority())) as (_, ear):
            await ear.wait_for_count(Disconnected, 1)
            assert ear.count(Connected) == 0


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_impostor_broker_of_another_authority_is_not_spoken_to(tmp_path: Path) -> None:
    (tmp_path / "impostor").mkdir()
    (tmp_path / "real").mkdir()
    impostor, real = SecureBroker(tmp_path / "impostor"), SecureBroker(tmp_path / "real")
    with Mosquitto(impostor.config) as broker:
        address = BrokerAddress(host="localhost", port=broker.port, tls=True)
        async with running(address, DeviceId("dev-1"), real.tls("dev-1")) as (_, ear):
            await ear.wait_for_count(Disconnected, 1)
            assert any("CERTIFICATE_VERIFY_FAILED" in str(event) for event in ear.events)


async def test_password_is_never_sent_in_the_clear_to_another_machine() -> None:
    with pytest.raises(InvalidInputError, match="another machine"):
        MqttLink(
            broker=BrokerAddress(host="broker.example", port=1883, tls=False),
            device_id=DeviceId("dev-1"),
            security=PlainLogin(password="x"),
            chance=random.Random(1),
        )


async def test_tls_promised_and_not_given_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="TLS"):
        MqttLink(
            broker=BrokerAddress(host="localhost", port=8883, tls=True),
            device_id=DeviceId("dev-1"),
            security=PlainLogin(password="x"),
            chance=random.Random(1),
        )


def users_file(folder: Path) -> Path:
    """Write a file of users that knows `dev-1` by `secret`."""
    users = folder / "users"
    users.touch(0o700)
    program = find_program("mosquitto_passwd")
    subprocess.run([program, "-b", users, "dev-1", "secret"], check=True, capture_output=True, timeout=ANSWER_S)
    return users


@pytest.mark.parametrize(("password", "taken"), [("secret", True), ("guess", False)])
async def test_password_on_loopback_decides(tmp_path: Path, password: str, taken: bool) -> None:
    users = users_file(tmp_path)
    with Mosquitto(f"allow_anonymous false\npassword_file {users}\n") as broker:
        async with running(plain(broker), DeviceId("dev-1"), PlainLogin(password=password)) as (_, ear):
            await wait_until_async(lambda: ear.events)
            assert isinstance(ear.events[0], Connected) is taken
