"""The demo's broker: mosquitto where it is installed, else one in pure Python for loopback."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from controller.demo.processes import python_module
from controller.trust.authority import Authority
from controller.trust.broker_config import write_broker_config
from controller.trust.tls import CertificateFiles, client_context
from shared.clock import SystemClock
from shared.errors import UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from controller.demo.processes import Programs
    from controller.demo.screen import Screen

_HOST = "127.0.0.1"
_PUBLISH_TIMEOUT_S = 10.0


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


async def start_broker(programs: Programs, state: Path, *, port: int, screen: Screen) -> Broker:
    """Start a broker that knows clients by certificates of the controller's own authority in `state`."""
    authority = Authority.open(state / "authority", SystemClock())
    server = authority.server_files("broker", (_HOST, "localhost"))
    mosquitto = shutil.which("mosquitto", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
    if mosquitto is not None:
        configuration = write_broker_config(state / "broker", authority, host=_HOST, port=port)
        await programs.start("broker", mosquitto, "-c", str(configuration))
        screen.done(f"mosquitto on port {port}, mutual TLS")
    else:
        files = ("--ca", str(authority.ca_file), "--cert", str(server.certificate), "--key", str(server.key))
        await programs.start("broker", *python_module("controller.demo.loopback_broker", "--port", str(port), *files))
        screen.warn(f"mosquitto is not installed: amqtt on port {port}, for loopback and trying out only")
    return Broker(port=port, files=authority.controller_files())
