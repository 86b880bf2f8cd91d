"""What a mosquitto is told: who may come in, which topics are whose, and how a removed device is cut off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from controller.trust.authority import Authority
from controller.trust.broker_config import BrokerAccess, access_list, broker_config, write_broker_config
from controller.trust.tls import CONTROLLER_NAME
from shared import topics
from shared.ids import DeviceId
from shared.topics import Channel, device_topic
from tests.support.fleet_world import TestClock

if TYPE_CHECKING:
    from pathlib import Path

_CAM = DeviceId("cam-1")
_UP = (Channel.REPORT, Channel.TELEMETRY, Channel.HEARTBEAT)
_DOWN = (Channel.DESIRED, Channel.ACKED)


def _may(user: str, act: str, topic: str, *, denied: tuple[DeviceId, ...] = ()) -> bool:
    """Judge as mosquitto does: a user's own lines, and the patterns, which every user has."""
    allowed, reader = False, ""
    for line in access_list(denied).splitlines():
        word, _, rest = line.partition(" ")
        if word == "user":
            reader = rest
        if (word == "topic" and reader == user) or word == "pattern":
            right, _, wanted = rest.partition(" ")
            pattern = (
                re.escape(wanted.replace("%u", user))
                .replace(r"\+", "[^/]+")
                .replace(r"/\#", "(/.*)?")
                .replace("/#", "(/.*)?")
            )
            if re.fullmatch(pattern, topic):
                if right == "deny":
                    return False
                allowed = allowed or right in {act, "readwrite"}
    return allowed


@pytest.mark.parametrize("channel", _UP)
def test_device_writes_its_own_channels_upwards(channel: Channel) -> None:
    assert _may(_CAM, "write", device_topic(_CAM, channel))


@pytest.mark.parametrize("channel", _DOWN)
def test_device_reads_its_own_channels_downwards(channel: Channel) -> None:
    assert _may(_CAM, "read", device_topic(_CAM, channel))


@pytest.mark.parametrize("channel", list(Channel))
@pytest.mark.parametrize("act", ["read", "write"])
def test_attack_device_reaches_no_topic_of_another(channel: Channel, act: str) -> None:
    assert not _may("cam-2", act, device_topic(_CAM, channel))


@pytest.mark.parametrize("channel", _DOWN)
def test_attack_device_writes_no_word_of_the_controller(channel: Channel) -> None:
    assert not _may(_CAM, "write", device_topic(_CAM, channel))


@pytest.mark.parametrize(("topic", "readable"), [(topics.PULSE, True), (topics.SENTINEL, False)])
def test_attack_device_writes_no_broadcast(topic: str, readable: bool) -> None:
    assert _may(_CAM, "read", topic) is readable
    assert not _may(_CAM, "write", topic)


@pytest.mark.parametrize("channel", list(Channel))
@pytest.mark.parametrize("act", ["read", "write"])
def test_removed_device_reaches_nothing(channel: Channel, act: str) -> None:
    assert not _may(_CAM, act, device_topic(_CAM, channel), denied=(_CAM,))


def test_removed_device_takes_nobody_else_with_it() -> None:
    other = DeviceId("cam-2")
    assert _may(other, "write", device_topic(other, Channel.REPORT), denied=(_CAM,))
    assert _may(CONTROLLER_NAME, "read", device_topic(_CAM, Channel.REPORT), denied=(_CAM,))


@pytest.mark.parametrize(
    ("act", "topic"),
    [
        *(("read", device_topic(_CAM, channel)) for channel in _UP),
        *(("write", device_topic(_CAM, channel)) for channel in _DOWN),
        ("write", topics.PULSE),
        ("write", topics.SENTINEL),
        ("read", topics.SENTINEL),
    ],
)
def test_controller_reaches_what_it_works_with(act: str, topic: str) -> None:
    assert _may(CONTROLLER_NAME, act, topic)


@pytest.mark.parametrize(
    "line",
    [
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        "listener 8883 10.0.0.1",
    ],
)
def test_broker_knows_clients_by_certificate_only(tmp_path: Path, line: str) -> None:
    assert line in broker_config(tmp_path, host="10.0.0.1", port=8883).splitlines()


def test_broker_folder_holds_all_that_its_configuration_names(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "authority", TestClock())
    path = write_broker_config(tmp_path / "broker", authority, host="0.0.0.0", port=8883, names=["mqtt.lan"])
    named = [
        rest
        for word, _, rest in (line.partition(" ") for line in path.read_text().splitlines())
        if word.endswith("file")
    ]
    assert {name.rsplit("/", 1)[-1] for name in named} == {"ca.pem", "broker.pem", "broker.key", "acl"}
    assert all((tmp_path / "broker").joinpath(name).is_file() for name in named)
    assert (tmp_path / "broker" / "broker.key").stat().st_mode & 0o777 == 0o600


def test_broker_certificate_names_it_as_clients_call_it_and_no_wildcard_address(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "authority", TestClock())
    write_broker_config(tmp_path / "broker", authority, host="0.0.0.0", port=8883, names=["mqtt.lan"])
    certificate = x509.load_pem_x509_certificate((tmp_path / "broker" / "broker.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {"mqtt.lan", "localhost", "127.0.0.1"}


def test_broker_folder_written_again_keeps_who_is_denied(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "authority", TestClock())
    write_broker_config(tmp_path, authority, host="127.0.0.1", port=8883)
    (tmp_path / "acl").write_text(access_list([_CAM]))
    write_broker_config(tmp_path, authority, host="127.0.0.1", port=8884)
    assert (tmp_path / "acl").read_text() == access_list([_CAM])


async def test_access_denied_is_written_and_the_broker_told(tmp_path: Path) -> None:
    told = tmp_path / "told"
    access = BrokerAccess(acl_file=tmp_path / "acl", reload_command=("touch", str(told)))
    await access.deny([_CAM])
    assert (tmp_path / "acl").read_text() == access_list([_CAM])
    assert told.exists()


async def test_access_unchanged_does_not_trouble_the_broker(tmp_path: Path) -> None:
    told = tmp_path / "told"
    (tmp_path / "acl").write_text(access_list([_CAM]))
    await BrokerAccess(acl_file=tmp_path / "acl", reload_command=("touch", str(told))).deny([_CAM])
    assert not told.exists()


@pytest.mark.parametrize("command", [(), ("false",), ("/no/such/program",)])
async def test_access_is_written_although_the_broker_cannot_be_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    await BrokerAccess(acl_file=tmp_path / "acl", reload_command=command).deny([_CAM])
    assert (tmp_path / "acl").read_text() == access_list([_CAM])


async def test_access_that_is_not_ours_to_write_is_left_alone(tmp_path: Path) -> None:
    told = tmp_path / "told"
    await BrokerAccess(acl_file=None, reload_command=("touch", str(told))).deny([_CAM])
    assert not told.exists()
