from __future__ import annotations

import pytest
from amqtt.contexts import Action

from controller.demo.loopback_broker import broker_settings, common_name, may
from shared import topics
from shared.ids import DeviceId
from shared.topics import Channel, device_topic

CAM, OTHER = DeviceId("cam-1"), DeviceId("cam-2")
REPORT = device_topic(CAM, Channel.REPORT)
DESIRED = device_topic(CAM, Channel.DESIRED)


@pytest.mark.parametrize(
    ("who", "action", "topic", "allowed"),
    [
        (CAM, Action.PUBLISH, REPORT, True),
        (CAM, Action.RECEIVE, DESIRED, True),
        (CAM, Action.RECEIVE, topics.PULSE, True),
        (CAM, Action.RECEIVE, topics.SENTINEL, True),
        (CAM, Action.SUBSCRIBE, "#", True),
        (CAM, Action.RECEIVE, REPORT, False),
        (CAM, Action.PUBLISH, DESIRED, False),
        (CAM, Action.PUBLISH, topics.PULSE, False),
        (CAM, Action.PUBLISH, topics.SENTINEL, False),
        (OTHER, Action.PUBLISH, REPORT, False),
        (OTHER, Action.RECEIVE, DESIRED, False),
        (CAM, Action.PUBLISH, "other/v1/07/cam-1/up/report", False),
        (CAM, Action.PUBLISH, "lf/v1/cam-1/up/report/x", False),
        ("controller", Action.PUBLISH, DESIRED, True),
        ("controller", Action.RECEIVE, REPORT, True),
    ],
)
def test_device_may_speak_up_and_hear_down_on_its_own_topics_only(
    who: str, action: Action, topic: str, allowed: bool
) -> None:
    assert may(who, action, topic) is allowed


def test_session_without_a_certificate_has_no_name() -> None:
    assert common_name(None) is None


def test_settings_listen_on_loopback_with_our_plugins_alone() -> None:
    settings = broker_settings(port=1, ca="ca", certificate="crt", key="key")
    assert settings["listeners"]["default"]["bind"] == "127.0.0.1:1"
    assert settings["listeners"]["default"]["ssl"] is True
    assert [name.rpartition(".")[2] for name in settings["plugins"]] == ["CertificateIdentity", "CertificateTopics"]
