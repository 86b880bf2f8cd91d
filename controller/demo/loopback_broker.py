"""A broker in pure Python for machines without mosquitto: for trying things on loopback, never a trust boundary.

`python -m controller.demo.loopback_broker --port N --ca FILE --cert FILE --key FILE`

amqtt's own plugins believe the user name that a client sends; these two take the identity from the verified client
certificate alone, and hold each device to its own topics, kept messages included, as the mosquitto configuration does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from cryptography import x509
from cryptography.x509.oid import NameOID
from typing_extensions import override

from shared import topics

if TYPE_CHECKING:
    from amqtt.session import Session

CONTROLLER = "controller"
"""Common name of the controller's own client certificate."""


def common_name(session: Session | None) -> str | None:
    """Return whom the client's verified certificate names, or None when it showed none."""
    secured = session.ssl_object if session is not None else None
    certificate = secured.getpeercert(binary_form=True) if secured is not None else None
    if not certificate:
        return None
    subject = x509.load_der_x509_certificate(certificate).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None


def may(who: str, action: Action, topic: str) -> bool:
    """Whether `who` may publish to, or receive from, `topic`. A subscription may be wide: delivery is what is held."""
    if who == CONTROLLER or action is Action.SUBSCRIBE:
        return True
    levels = topic.split("/")
    if action is Action.RECEIVE and topic in {topics.PULSE, topics.SENTINEL}:
        return True
    direction = "up" if action is Action.PUBLISH else "down"
    return len(levels) > 4 and "/".join(levels[:2]) == topics.ROOT and levels[3:5] == [who, direction]  # noqa: PLR2004


class HeldBroker(Broker):
    """amqtt's broker, whose retained messages go only to sessions that asked for them and may have them.

    amqtt asks its plugins about messages that are published now, not about those that it kept; and to whoever connects
    it sends what it kept for anybody's subscriptions.
    """

    @override
    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        topic_filter, qos = subscription
        asked = any(subscriber is session for subscriber, _ in self._subscriptions.get(topic_filter, []))
        handler = self._get_handler(session)
        if not asked or handler is None:
            return
        for topic, kept in list(self._retained_messages.items()):
            if self._matches(topic, topic_filter) and await self._topic_filtering(session, topic, Action.RECEIVE):
                await handler.mqtt_publish(topic, kept.data, min(qos, kept.qos or qos), retain=True)


class CertificateIdentity(BaseAuthPlugin):
    """Lets a client in that shows a certificate of our authority and calls itself what the certificate says."""

    @override
    async def authenticate(self, *, session: Session) -> bool | None:
        """Whether the session's client id is its certificate's common name."""
        who = common_name(session)
        return who is not None and who in {CONTROLLER, session.client_id}


class CertificateTopics(BaseTopicPlugin):
    """Holds each client to the topics that its certificate's name owns."""

    @override
    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        """Whether this session may do this with this topic."""
        who = common_name(session)
        return who is not None and topic is not None and action is not None and may(who, action, topic)


def broker_settings(*, port: int, ca: str, certificate: str, key: str) -> dict[str, Any]:
    """Return amqtt's configuration: one TLS listener on loopback and our two plugins, nothing else."""
    here = "controller.demo.loopback_broker"
    return {
        "listeners": {
            "default": {
                "type": "tcp",
                "bind": f"127.0.0.1:{port}",
                "ssl": True,
                "cafile": ca,
                "certfile": certificate,
                "keyfile": key,
            }
        },
        "plugins": {f"{here}.CertificateIdentity": {}, f"{here}.CertificateTopics": {}},
    }


async def serve(settings: dict[str, Any]) -> None:
    """Run the broker until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    broker = HeldBroker(settings)
    await broker.start()
    await stopped.wait()
    await broker.shutdown()


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True, help="CA certificate, PEM")
    parser.add_argument("--cert", required=True, help="server certificate, PEM")
    parser.add_argument("--key", required=True, help="server key, PEM")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve(broker_settings(port=options.port, ca=options.ca, certificate=options.cert, key=options.key)))


if __name__ == "__main__":
    main()
