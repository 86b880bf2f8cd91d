"""The device's one connection to the broker. The only file of the agent that imports aiomqtt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import Awaitable, Callable

    from agent.link.identity import BrokerAddress
    from shared.ids import DeviceId
    from shared.wire import Acked


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The broker took us and our subscriptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The broker is away; the link is trying again by itself."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedDesired:
    """A Desired came, sealed and unverified."""

    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPulse:
    """A Pulse came, sealed and unverified."""

    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AckArrived:
    """The controller says what it has stored; a hint, for anyone at the broker could say it."""

    acked: Acked


LinkEvent = Connected | Disconnected | SealedDesired | SealedPulse | AckArrived


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainLogin:
    """User (the device id) and password, for a broker on this very machine only."""

    password: str


class MqttLink:
    """Keeps one connection to the broker alive for ever."""

    def __init__(
        self,
        *,
        broker: BrokerAddress,
        device_id: DeviceId,
        security: ssl.SSLContext | PlainLogin | None,
        chance: random.Random,
    ) -> None:
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether `publish` has somebody to speak to."""
        raise NotImplementedError

    async def run(self, deliver: Callable[[LinkEvent], Awaitable[None]]) -> Never:
        """Connect, subscribe, hand over what comes; when cut, wait with full jitter and try again."""
        raise NotImplementedError

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and at QoS 1 wait until the broker has it. Raises UnreachableError when there is no connection."""
        raise NotImplementedError
