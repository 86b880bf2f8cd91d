"""The device's one connection to the broker. The only file of the agent that imports aiomqtt."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never

import aiomqtt
import msgspec
from typing_extensions import override

from agent.link.backoff import FullJitter
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError, UnreachableError
from shared.signing import MAX_SEALED_BYTES
from shared.topics import PULSE, Channel, device_topic, inference_filter
from shared.wire import Acked

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import Awaitable, Callable

    from agent.link.identity import BrokerAddress
    from shared.ids import DeviceId

_ANSWER_S = 10.0
"""For connecting, subscribing and the acknowledgement of a publish: a broker that takes longer is not there."""
_KEEPALIVE_S = 30
"""A dead connection is noticed after 1.5 times this; much shorter would cost battery and mobile data."""
_FIRST_RETRY_S = 1.0
_RETRY_CEILING_S = 120.0
_STEADY_S = 30.0
"""A connection that lived this long was a good one; a broker that accepts and drops must not be stormed."""
_REQUESTS = "/infer/"
"""Level of the topics of applications."""
_MAX_WAITING = 64
"""Messages between broker and control process; retained ones come again with the next connection."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceAsked:
    """An application asks, which the broker has let write to this topic; nothing of it has been read."""

    topic: str
    payload: bytes


LinkEvent = Connected | Disconnected | SealedDesired | SealedPulse | AckArrived | InferenceAsked


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainLogin:
    """User (the device id) and password, for a broker on this very machine only."""

    password: str


class FleetFirst(asyncio.Queue[aiomqtt.Message]):
    """What waits for control, with half of the room kept for the fleet: a flood of requests must not drown a halt."""

    @override
    def put_nowait(self, item: aiomqtt.Message) -> None:
        """Take a message in. Raises QueueFull, and the message is dropped."""
        if _REQUESTS in item.topic.value and self.qsize() >= self.maxsize // 2:
            raise asyncio.QueueFull
        super().put_nowait(item)


class MqttLink:
    """Keeps one connection to the broker alive for ever.

    Sessions are clean. Desired and Pulse are retained, so a new subscription brings exactly the newest of each, and an
    acknowledgement that was missed comes again after a resend: a persistent session would only make the broker hoard
    every Desired in between, for every device that is away.
    """

    def __init__(
        self,
        *,
        broker: BrokerAddress,
        device_id: DeviceId,
        security: ssl.SSLContext | PlainLogin | None,
        chance: random.Random,
    ) -> None:
        """Take where and who; nothing is opened before `run`.

        Raises:
            InvalidInputError: without TLS, and the broker is not on this machine.
        """
        if broker.tls == (security is None or isinstance(security, PlainLogin)):
            raise InvalidInputError(field="broker", problem="TLS is wanted on one side only", remedy="enrol again")
        if not broker.tls and not _is_loopback(broker.host):
            raise InvalidInputError(
                field="broker.host",
                problem=f"{broker.host} is another machine, and passwords do not travel in the clear",
                remedy="give the broker a TLS listener and enrol again",
            )
        self._broker, self._device_id, self._security = broker, device_id, security
        self._retry = FullJitter(first_s=_FIRST_RETRY_S, ceiling_s=_RETRY_CEILING_S, chance=chance)
        self._desired = device_topic(device_id, Channel.DESIRED)
        self._acked = device_topic(device_id, Channel.ACKED)
        self._asked = inference_filter(device_id)
        self._client: aiomqtt.Client | None = None

    @property
    def connected(self) -> bool:
        """Whether `publish` has somebody to speak to."""
        return self._client is not None

    async def run(self, deliver: Callable[[LinkEvent], Awaitable[None]]) -> Never:
        """Connect, subscribe, hand over what comes; when cut, wait with full jitter and try again."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._one_connection(deliver)
            except (aiomqtt.MqttError, OSError) as exc:
                # aiomqtt's farewell to a broker that hangs fails, and its error would stand for our cancellation.
                _end_if_canceled()
                reason = str(exc) or type(exc).__name__
            if loop.time() - began >= _STEADY_S:
                self._retry.reset()
            await deliver(Disconnected(reason=reason))
            await asyncio.sleep(self._retry.wait_s())

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and at QoS 1 wait until the broker has it. Raises UnreachableError when there is no connection."""
        client = self._client
        if client is None:
            raise UnreachableError("the broker is away")
        try:
            async with asyncio.timeout(_ANSWER_S):
                await client.publish(topic, payload, qos=qos, retain=retain)
        except (aiomqtt.MqttError, OSError, ValueError) as exc:
            # paho says ValueError to a topic or payload beyond the protocol's sizes.
            raise UnreachableError(f"the broker did not take the message: {exc}") from exc
        _end_if_canceled()

    async def _one_connection(self, deliver: Callable[[LinkEvent], Awaitable[None]]) -> Never:
        """Live through one connection. Raises MqttError or OSError at its end."""
        async with self._new_client() as client:
            subscriptions = [(self._desired, 1), (self._acked, 0), (PULSE, 1), (self._asked, 1)]
            await client.subscribe(subscriptions)
            _end_if_canceled()
            self._client = client
            try:
                await deliver(Connected())
                async for message in client.messages:
                    event = self._event(message)
                    if event is not None:
                        await deliver(event)
            finally:
                self._client = None
        raise aiomqtt.MqttError("the broker ended the connection")

    def _new_client(self) -> aiomqtt.Client:
        plain = self._security if isinstance(self._security, PlainLogin) else None
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            # The broker binds sessions to certificates by it (`use_username_as_clientid`): it is never another's.
            identifier=self._device_id,
            clean_session=True,
            username=self._device_id if plain else None,
            password=plain.password if plain else None,
            tls_context=None if isinstance(self._security, PlainLogin) else self._security,
            keepalive=_KEEPALIVE_S,
            timeout=_ANSWER_S,
            max_queued_incoming_messages=_MAX_WAITING,
            queue_type=FleetFirst,
        )

    def _event(self, message: aiomqtt.Message) -> LinkEvent | None:
        """Name what came; None for what cannot be meant: empty (a cleared topic), oversized or unreadable."""
        payload, topic = message.payload, message.topic.value
        if topic.startswith(self._asked.removesuffix("+")):
            # A retained one is old, and would be asked again with every connection.
            return None if message.retain else InferenceAsked(topic=topic, payload=payload)
        # Before parsing: whoever may publish here must not make us work for what cannot be meant.
        if not 0 < len(payload) <= MAX_SEALED_BYTES:
            return None
        if topic == PULSE:
            return SealedPulse(sealed=payload)
        if topic == self._desired:
            return SealedDesired(sealed=payload)
        try:
            return AckArrived(acked=msgspec.json.decode(payload, type=Acked)) if topic == self._acked else None
        except MALFORMED:
            return None


def _end_if_canceled() -> None:
    """Bring back a cancellation that a library has swallowed.

    aiomqtt waits by `asyncio.wait_for`, which before Python 3.12 answers as if nothing had happened when what it waits
    for is done at the same moment. The task would then live on, and with it a process that was told to end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
