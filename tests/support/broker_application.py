"""An application that has only the broker: the real broker's second listener, and a small client as users write one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import aiomqtt
from typing_extensions import override

from controller.trust.broker_config import write_broker_config
from controller.trust.broker_logins import admit
from shared.broker_inference import BrokerReply, BrokerRequest, pack, unpack_reply
from shared.topics import inference_topic
from tests.support.fleet_broker import FleetBroker, Listener
from tests.support.ports import LOOPBACK, accepts_connections, free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.ids import DeviceId

KEY = "lfa_" + 43 * "k"
OTHER_KEY = "lfa_" + 43 * "o"
_ANSWER_S = 10.0


class ApplicationBroker(FleetBroker):
    """The broker of one authority, which lets in applications too."""

    def __init__(self, logins: dict[str, str]) -> None:
        """`logins`: who is let in, and by which key."""
        super().__init__()
        self.logins, self.application_port = logins, free_port()

    @override
    def _configuration(self) -> str:
        configuration = write_broker_config(
            self.folder, self.authority, host=LOOPBACK, port=self.port, application_port=self.application_port
        )
        for login, key in self.logins.items():
            admit(self.folder, login, key)
        return configuration.read_text()

    @override
    def __enter__(self) -> Self:
        entered = super().__enter__()
        wait_until(lambda: accepts_connections(self.application_port), what="applications are let in")
        return entered


@contextlib.asynccontextmanager
async def application_session(
    broker: ApplicationBroker,
    login: str,
    key: str,
    *,
    identifier: str | None = None,
    subscribe: str = "",
    within_s: float = _ANSWER_S,
) -> AsyncIterator[Listener]:
    """Connect as an application does, and listen."""
    client = aiomqtt.Client(
        broker.host,
        broker.application_port,
        username=login,
        password=key,
        identifier=identifier,
        tls_context=ssl.create_default_context(cafile=str(broker.authority.ca_file)),
        timeout=within_s,
    )
    async with client:
        listener = Listener(client, [])
        if subscribe:
            await client.subscribe(subscribe, qos=1)
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(_collect(listener))
            try:
                yield listener
            finally:
                collecting.cancel()


async def _collect(listener: Listener) -> None:
    with contextlib.suppress(aiomqtt.MqttError):
        async for message in listener.client.messages:
            assert isinstance(message.payload, bytes)
            listener.heard.append((message.topic.value, message.payload))


@dataclass(slots=True)
class Asking:
    """A client that asks one device."""

    client: aiomqtt.Client
    topic: str
    name: str
    _waiting: dict[str, asyncio.Future[tuple[BrokerReply, bytes]]] = field(default_factory=dict)

    async def ask(
        self, request: BrokerRequest, follows: bytes | None = None, *, within_s: float = _ANSWER_S
    ) -> tuple[BrokerReply, bytes]:
        """Ask, and return the reply with its body."""
        future: asyncio.Future[tuple[BrokerReply, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        await self.client.publish(self.topic, pack(request, follows), qos=1)
        async with asyncio.timeout(within_s):
            return await future

    async def hear(self) -> None:
        """Hand every reply to whoever waits for it."""
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            reply, body = unpack_reply(message.payload)
            waiting = self._waiting.pop(reply.id, None)
            assert waiting is not None, f"two replies to {reply.id}"
            waiting.set_result((reply, body))


@contextlib.asynccontextmanager
async def asking(
    broker: ApplicationBroker, device: DeviceId, login: str, key: str, *, name: str = "c1"
) -> AsyncIterator[Asking]:
    """Connect as an application that asks one device, and hears what it replies."""
    tls = ssl.create_default_context(cafile=str(Path(broker.authority.ca_file)))
    topic = inference_topic(device, login)
    async with aiomqtt.Client(
        broker.host, broker.application_port, username=login, password=key, tls_context=tls, timeout=_ANSWER_S
    ) as client:
        await client.subscribe(f"{topic}/reply/{name}", qos=1)
        asks = Asking(client, topic, name)
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(asks.hear())
            yield asks
            hearing.cancel()
