"""What the device has to say, until it is known to be heard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Never, Protocol

if TYPE_CHECKING:
    import random

    from agent.core.plan import Stats
    from agent.link.https import Session
    from shared.clock import Clock
    from shared.ids import DeviceId
    from shared.wire import Acked, Heartbeat, Report


class Publish(Protocol):
    """How the outbox reaches the broker: `MqttLink.publish`."""

    async def __call__(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish. Raises UnreachableError when there is no connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxTimes:
    """How often the outbox speaks."""

    heartbeat_s: float = 30.0
    telemetry_window_s: float = 60.0
    resend_first_s: float = 5.0
    """First wait for an acknowledgement; doubles with every resend."""
    resend_ceiling_s: float = 300.0


class Outbox:
    """The newest Report until it is acknowledged, heartbeats, and telemetry in windows."""

    def __init__(
        self,
        *,
        device_id: DeviceId,
        session: Session,
        publish: Publish,
        clock: Clock,
        chance: random.Random,
        times: OutboxTimes,
    ) -> None:
        raise NotImplementedError

    def report(self, report: Report) -> None:
        """Send this snapshot until it is acknowledged; it replaces the one before it."""
        raise NotImplementedError

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """From now on, say this with every heartbeat."""
        raise NotImplementedError

    def measured(self, stats: Stats) -> None:
        """Take in cumulative measurements; what they add to the ones before goes into the open window."""
        raise NotImplementedError

    def acknowledged(self, acked: Acked) -> Report | None:
        """Take in an acknowledgement, and return the report that it confirms, once; None when it confirms none."""
        raise NotImplementedError

    def connected(self) -> None:
        """The broker is back: speak now, not at the end of a wait."""
        raise NotImplementedError

    async def run(self) -> Never:
        """Send what is due, until cancelled."""
        raise NotImplementedError
