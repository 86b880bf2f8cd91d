"""A real mosquitto with the configuration that litefleet writes, and clients with certificates of its authority."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from typing_extensions import override

from controller.trust.authority import Authority
from controller.trust.broker_config import write_broker_config
from controller.trust.files import private_pem
from controller.trust.tls import CertificateFiles, client_context
from shared.clock import SystemClock
from shared.ids import DeviceId
from tests.support.mosquitto import Mosquitto
from tests.support.ports import LOOPBACK
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

_ANSWER_S = 10.0


def signing_request(key: CertificateIssuerPrivateKeyTypes, common_name: str = "whatever") -> bytes:
    """Return a PEM signing request."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


class FleetBroker(Mosquitto):
    """The broker of one authority."""

    def __init__(self) -> None:
        super().__init__("")
        self._identities = tempfile.TemporaryDirectory(prefix="litefleet-identities-")
        self.identities = Path(self._identities.name)
        self.authority = Authority.open(self.identities / "authority", SystemClock())

    @property
    def acl_file(self) -> Path:
        return self.folder / "acl"

    def device_files(self, device: str, authority: Authority | None = None) -> CertificateFiles:
        """Return a device's certificate by the broker's authority, or by another one's."""
        issuer = authority or self.authority
        folder = issuer.folder.parent / "devices" / device
        files = CertificateFiles(
            certificate=folder / "device.crt", key=folder / "device.key", ca=self.authority.ca_file
        )
        if not files.key.exists():
            folder.mkdir(parents=True)
            key = ec.generate_private_key(ec.SECP256R1())
            files.key.write_bytes(private_pem(key))
            files.certificate.write_bytes(issuer.issue_device(signing_request(key), DeviceId(device)).pem)
        return files

    @override
    def _configuration(self) -> str:
        configuration = write_broker_config(self.folder, self.authority, host=LOOPBACK, port=self.port)
        return configuration.read_text()

    @override
    def _close(self) -> None:
        super()._close()
        self._identities.cleanup()


@dataclass(frozen=True, slots=True)
class Listener:
    """A connected client, and all that it was sent."""

    client: aiomqtt.Client
    heard: list[tuple[str, bytes]]

    async def hears(self, payload: bytes) -> None:
        """Wait until a payload has arrived."""
        await wait_until_async(lambda: payload in self.payloads, what=f"{payload!r} arrives")

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.heard]


@contextlib.asynccontextmanager
async def connected(
    broker: FleetBroker,
    files: CertificateFiles | None,
    *,
    identifier: str | None = None,
    username: str | None = None,
    subscribe: str = "",
    within_s: float = _ANSWER_S,
) -> AsyncIterator[Listener]:
    """Connect to the broker, optionally under a false name, and listen."""
    tls = client_context(files) if files else ssl.create_default_context(cafile=str(broker.authority.ca_file))
    client = aiomqtt.Client(
        broker.host, broker.port, tls_context=tls, identifier=identifier, username=username, timeout=within_s
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
