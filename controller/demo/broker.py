"""The demo's broker: mosquitto where it is installed, else one in pure Python for loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from controller.demo.broker_kind import BrokerKind
from controller.demo.processes import python_module
from controller.trust.authority import Authority
from controller.trust.broker_config import write_broker_config
from controller.trust.tls import CertificateFiles, client_context
from shared.clock import SystemClock
from shared.errors import NotFoundError, UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from controller.demo.processes import Programs
    from controller.demo.screen import Screen

_HOST = "127.0.0.1"
_PUBLISH_TIMEOUT_S = 10.0
_DAEMON_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/opt/homebrew/sbin")
"""Where daemons are installed; often not on an ordinary user's PATH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A running broker, and the certificate with which it takes us for the controller."""

    port: int
    files: CertificateFiles

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish one retained message with the controller's rights. Raises UnreachableError."""
        await asyncio.to_thread(self._publish, topic, payload)

    def _publish(self, topic: str, payload: bytes) -> None:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo-attacker")
        client.tls_set_context(client_context(self.files))
        client.connect(_HOST, self.port)
        client.loop_start()
        try:
            sent = client.publish(topic, payload, qos=1, retain=True)
            sent.wait_for_publish(_PUBLISH_TIMEOUT_S)
            if not sent.is_published():
                raise UnreachableError(f"the broker did not take a message within {_PUBLISH_TIMEOUT_S:.0f} s")
        finally:
            client.disconnect()
            client.loop_stop()


async def start_broker(
    programs: Programs, state: Path, *, port: int, screen: Screen, kind: BrokerKind = BrokerKind.AUTO
) -> Broker:
    """Start a broker that knows clients by certificates of the controller's own authority in `state`.

    Raises:
        NotFoundError: mosquitto was asked for and is not installed.
    """
    authority = Authority.open(state / "authority", SystemClock())
    server = authority.server_files("broker", (_HOST, "localhost"))
    mosquitto = find_mosquitto() if kind is not BrokerKind.AMQTT else None
    if mosquitto is not None:
        configuration = write_broker_config(state / "broker", authority, host=_HOST, port=port)
        await programs.start("broker", mosquitto, "-c", str(configuration))
        screen.done(f"mosquitto on port {port}, mutual TLS")
    elif kind is BrokerKind.MOSQUITTO:
        raise NotFoundError(kind="program", name="mosquitto")
    else:
        files = ("--ca", str(authority.ca_file), "--cert", str(server.certificate), "--key", str(server.key))
        await programs.start("broker", *python_module("controller.demo.loopback_broker", "--port", str(port), *files))
        why = "mosquitto is not installed: " if kind is BrokerKind.AUTO else ""
        screen.warn(f"{why}amqtt on port {port}, mutual TLS; on loopback and for trying out only")
    return Broker(port=port, files=authority.controller_files())


def find_mosquitto() -> str | None:
    """Return where mosquitto is: on PATH, or among the daemons."""
    return shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_DAEMON_FOLDERS)))
