"""Every MQTT topic; nobody else writes a `/` between topic levels.

`lf/v1/{shard}/{device}/{up|down}/{channel}`, with 256 shards so that controllers can divide the fleet, and an ACL of
two patterns: `write lf/v1/+/%u/up/#`, `read lf/v1/+/%u/down/#`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import InvalidIdError
from shared.ids import DeviceId, device_id

ROOT = "lf/v1"
PULSE = f"{ROOT}/pulse"
SENTINEL = f"{ROOT}/sentinel"
SHARDS = 256
_LEVELS = 6


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
