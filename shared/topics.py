"""Every MQTT topic; nobody else writes a `/` between topic levels.

`lf/v1/{shard}/{device}/{up|down}/{channel}`, with 256 shards so that controllers can divide the fleet, and an ACL of
two patterns: `write lf/v1/+/%u/up/#`, `read lf/v1/+/%u/down/#`.

Applications that have only the broker ask a device at `lf/v1/{shard}/{device}/infer/{login}` and are answered below it,
at `…/reply/{client}`. A login is `application.client`, one for each program of an application. The dot keeps it from
being a device's id: at a broker both name sessions, and who comes under the same name ends the other's session.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import InvalidIdError
from shared.ids import DeviceId, device_id

ROOT = "lf/v1"
PULSE = f"{ROOT}/pulse"
SENTINEL = f"{ROOT}/sentinel"
SHARDS = 256
_LEVELS = 6
_REPLY = "reply"
_LOGIN = re.compile(r"[a-z0-9-]{1,63}\.[a-z0-9-]{1,63}")
_CLIENT = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Channel(StrEnum):
    """What flows on a device's topics; the first three go up, the last two come down."""

    REPORT = "report"
    TELEMETRY = "telemetry"
    HEARTBEAT = "heartbeat"
    DESIRED = "desired"
    ACKED = "acked"


# The broker's ACL holds by direction: what comes down, no device may write.
_DOWN = frozenset({Channel.DESIRED, Channel.ACKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTopic:
    """A parsed device topic."""

    shard: int
    device: DeviceId
    channel: Channel


def shard_of(device: DeviceId) -> int:
    """Return the shard 0..255 that a device belongs to for ever."""
    return hashlib.sha256(device.encode()).digest()[0]


def device_topic(device: DeviceId, channel: Channel) -> str:
    """Return the one topic on which `channel` of `device` flows."""
    direction = "down" if channel in _DOWN else "up"
    return f"{ROOT}/{shard_of(device):02x}/{device}/{direction}/{channel}"


def uplink_filter(shard: int | None = None) -> str:
    """Return the subscription that takes everything devices send, of one shard or of all."""
    return f"{ROOT}/{'+' if shard is None else f'{shard:02x}'}/+/up/+"


def inference_topic(device: DeviceId, login: str) -> str:
    """Return the topic on which an application asks a device."""
    return f"{ROOT}/{shard_of(device):02x}/{device}/infer/{login}"


def inference_filter(device: DeviceId) -> str:
    """Return the subscription that takes the requests of every application to a device, and no reply."""
    return inference_topic(device, "+")


def login_of(topic: str, device: DeviceId) -> str | None:
    """Return who asks by this topic; None when it is not one on which `device` is asked."""
    login = topic.rpartition("/")[2]
    return login if _LOGIN.fullmatch(login) and topic == inference_topic(device, login) else None


def application_of(login: str) -> str:
    """Return the application that a login belongs to."""
    return login.partition(".")[0]


def is_login(login: str) -> bool:
    """Whether this can be a login of an application at the broker."""
    return _LOGIN.fullmatch(login) is not None


def reply_topic(asked: str, reply: str) -> str | None:
    """Return where a request that came by topic `asked` is answered; None when that is not below its own topic.

    `reply` is what the request says: the name of a client, or the whole topic.
    """
    client = reply.removeprefix(f"{asked}/{_REPLY}/")
    return f"{asked}/{_REPLY}/{client}" if _CLIENT.fullmatch(client) else None


def parse(topic: str) -> DeviceTopic:
    """Parse a device topic, checking that shard and direction belong to the device and channel that it names.

    Raises:
        InvalidIdError: anything that `device_topic` would not have produced.
    """
    levels = topic.split("/")
    if len(levels) != _LEVELS:
        raise InvalidIdError(field="topic", value=topic, rule=f"{ROOT}/shard/device/up|down/channel")
    # Built again and compared, rather than taken apart by a second set of rules that could differ from the first.
    device = device_id(levels[3])
    if levels[5] not in set(Channel) or device_topic(device, Channel(levels[5])) != topic:
        raise InvalidIdError(field="topic", value=topic, rule="a channel and shard that belong to the device")
    return DeviceTopic(shard=shard_of(device), device=device, channel=Channel(levels[5]))
