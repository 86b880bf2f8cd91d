"""The controller's connection to the broker: paho in a thread of its own, batches for the event loop.

Measured: paho's callbacks cost less than half of an asyncio client, and a list every 50 ms leaves most of a core for
deciding and storing. Uplinks are subscribed to at QoS 0; certainty is the application's own acknowledgement.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never, ParamSpec

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from controller.config import is_loopback
from controller.inbox import Inbox, IncomingMessage
from shared import topics
from shared.errors import InvalidInputError
from shared.signing import MAX_SEALED_BYTES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from controller.facts import OutgoingMessage
    from shared.clock import Clock

P = ParamSpec("P")

log = structlog.get_logger(__name__)

CLIENT_ID = "controller"
MAX_UPLINK_BYTES = 4 * MAX_SEALED_BYTES
"""A report of a device with dozens of models fits many times; more is an attack on this process's memory."""
_BATCH = 500
_BATCH_S = 0.05
_CONFIRM_S = 15.0
# The default of 20 throttles publishing to twenty messages a round trip.
_MAX_INFLIGHT = 2000
_MAX_QUEUED = 10_000
_KEEPALIVE_S = 30
# Retained messages follow a subscription at once; a broker that needs longer costs one needless republication.
_RETAINED_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordLogin:
    """For a broker on this very machine only."""

    user: str
    password: str


class BrokerLink:
    """Keeps one connection alive while `run` runs; everything else may be called at any time, on the event loop."""

    def __init__(self, *, host: str, port: int, security: ssl.SSLContext | PasswordLogin, clock: Clock) -> None:
        """Take where and who; nothing is opened before `run`.

        Raises:
            InvalidInputError: a password would travel to another machine in the clear.
        """
        if isinstance(security, PasswordLogin) and not is_loopback(host):
            raise InvalidInputError(
                field="broker_host",
                problem=f"{host} is another machine, and passwords do not travel in the clear",
                remedy="use TLS with the controller's client certificate",
            )
        self._address = (host, port)
        self._clock = clock
        self._inbox = Inbox()
        self._arrived = asyncio.Event()
        self._confirmations: dict[int, asyncio.Future[None]] = {}
        self._sentinel: bytes | None = None
        self._sentinel_known = asyncio.Event()
        self._connected = False
        self._connections = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = self._new_client(security)

    @property
    def connected(self) -> bool:
        """Whether the broker is there now."""
        return self._connected

    @property
    def connections(self) -> int:
        """How often the broker has taken us."""
        return self._connections

    @property
    def inbox(self) -> Inbox:
        """What waits to be taken."""
        return self._inbox

    async def run(self) -> Never:
        """Connect, and connect again whenever it is needed, until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._client.connect_async(*self._address, keepalive=_KEEPALIVE_S)
        self._client.loop_start()
        try:
            await asyncio.Future()
        finally:
            self._client.disconnect()
            # A broker that hangs must not hold up the end of the process: the thread is a daemon.
            await asyncio.to_thread(self._stop_thread)
        raise AssertionError("a future that nobody sets was set")

    async def batch(self) -> list[IncomingMessage]:
        """Wait for messages, and return up to 500 of them: what arrived within 50 ms of the first."""
        while True:
            self._arrived.clear()
            if not self._inbox.waiting():
                await self._arrived.wait()
            if self._inbox.waiting() < _BATCH:
                await asyncio.sleep(_BATCH_S)
            if taken := self._inbox.take(_BATCH):
                return taken

    async def publish(self, messages: Sequence[OutgoingMessage]) -> list[bool]:
        """Publish at QoS 1, and say of each message whether the broker confirmed it in time."""
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[None] | None] = []
        for message in messages:
            # Not awaited one by one: paho keeps up to 2,000 in flight, and a round trip each would cost minutes.
            sent = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
            refused = sent.rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN}
            waiting.append(None if refused else self._confirmations.setdefault(sent.mid, loop.create_future()))
        pending = [future for future in waiting if future is not None]
        if pending:
            await asyncio.wait(pending, timeout=_CONFIRM_S)
        for mid in [mid for mid, future in self._confirmations.items() if future.done()]:
            del self._confirmations[mid]
        return [future is not None and future.done() for future in waiting]

    def send(self, messages: Sequence[OutgoingMessage]) -> None:
        """Publish at QoS 0: hints that may be lost."""
        for message in messages:
            self._client.publish(message.topic, message.payload, qos=0, retain=message.retain)

    async def sentinel(self) -> bytes | None:
        """Return the sentinel that the broker retains, or None when it does not send one soon."""
        try:
            async with asyncio.timeout(_RETAINED_S):
                await self._sentinel_known.wait()
        except TimeoutError:
            return None
        return self._sentinel

    def _new_client(self, security: ssl.SSLContext | PasswordLogin) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID, clean_session=True)
        client.max_inflight_messages_set(_MAX_INFLIGHT)
        client.max_queued_messages_set(_MAX_QUEUED)
        client.reconnect_delay_set(min_delay=1, max_delay=15)
        if isinstance(security, PasswordLogin):
            client.username_pw_set(security.user, security.password)
        else:
            client.tls_set_context(security)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _stop_thread(self) -> None:
        waiter = threading.Thread(target=self._client.loop_stop, daemon=True)
        waiter.start()
        waiter.join(2.0)

    # What follows runs in paho's thread.

    def _on_connect(
        self, client: paho.Client, _data: object, _flags: paho.ConnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        if reason.is_failure:
            log.warning("broker_refused", reason=str(reason))
            return
        client.subscribe([(topics.uplink_filter(), 0), (topics.SENTINEL, 0)])
        self._call_soon(self._note_connected)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _data: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _p: Properties | None,
    ) -> None:
        self._call_soon(self._note_disconnected, str(reason))

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic == topics.SENTINEL:
            self._call_soon(self._note_sentinel, bytes(message.payload))
            return
        if len(message.payload) > MAX_UPLINK_BYTES:
            log.warning("uplink_too_large", topic=message.topic, size_bytes=len(message.payload))
            return
        came = IncomingMessage(topic=message.topic, payload=bytes(message.payload), received_at=self._clock.now())
        # Waking the loop costs more than queueing: once for a burst is enough.
        if self._inbox.put(came):
            self._call_soon(self._arrived.set)

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, _reason: ReasonCode, _p: Properties | None
    ) -> None:
        self._call_soon(self._note_confirmed, mid)

    def _call_soon(self, call: Callable[P, None], *args: P.args, **_kwargs: P.kwargs) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    # Back on the event loop.

    def _note_connected(self) -> None:
        self._sentinel = None
        self._sentinel_known.clear()
        self._connections += 1
        self._connected = True
        log.info("broker_connected", host=self._address[0], port=self._address[1])

    def _note_disconnected(self, reason: str) -> None:
        self._connected = False
        log.warning("broker_away", reason=reason)

    def _note_sentinel(self, text: bytes) -> None:
        self._sentinel = text
        self._sentinel_known.set()

    def _note_confirmed(self, mid: int) -> None:
        future = self._confirmations.get(mid)
        if future is not None and not future.done():
            future.set_result(None)
