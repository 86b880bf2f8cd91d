from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import topics
from shared.errors import InvalidIdError
from shared.ids import DeviceId
from shared.topics import Channel

DEVICES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).map(DeviceId)


@given(device=DEVICES, channel=st.sampled_from(list(Channel)))
def test_topic_parses_back_to_what_it_was_made_of(device: DeviceId, channel: Channel) -> None:
    parsed = topics.parse(topics.device_topic(device, channel))
    assert (parsed.device, parsed.channel, parsed.shard) == (device, channel, topics.shard_of(device))


def test_topic_of_a_device_never_changes() -> None:
    assert topics.device_topic(DeviceId("pi-1"), Channel.REPORT) == "lf/v1/9a/pi-1/up/report"
    assert topics.device_topic(DeviceId("pi-1"), Channel.DESIRED) == "lf/v1/9a/pi-1/down/desired"


@pytest.mark.parametrize(
    "topic",
    [
        "lf/v1/00/pi-1/up/report",  # a shard that is not this device's
        "lf/v1/9a/pi-1/down/report",  # a report does not come down
        "lf/v1/9a/pi-1/up/desired",  # a device does not say what it should run
        "lf/v2/9a/pi-1/up/report",
        "lf/v1/9a/pi-1/up/report/more",
        "lf/v1/3d/+/up/report",
        "lf/v1/9a/pi-1/up/unknown",
        "",
    ],
)
def test_topic_that_was_not_made_here_is_refused(topic: str) -> None:
    with pytest.raises(InvalidIdError):
        topics.parse(topic)


@pytest.mark.parametrize(
    ("shard", "expected"), [(None, "lf/v1/+/+/up/+"), (0, "lf/v1/00/+/up/+"), (255, "lf/v1/ff/+/up/+")]
)
def test_uplink_filter_takes_one_shard_or_all(shard: int | None, expected: str) -> None:
    assert topics.uplink_filter(shard) == expected
