"""Which broker the demo starts: a module of its own, so that `litefleet --help` loads no MQTT library."""

from __future__ import annotations

from enum import StrEnum


class BrokerKind(StrEnum):
    """A broker that the demo can start."""

    AUTO = "auto"
    """mosquitto where it is installed, else amqtt."""
    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"
