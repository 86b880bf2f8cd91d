"""Who this device is: the files that enrolment wrote, and the TLS that they allow."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.decoding import MALFORMED
from shared.errors import InvalidInputError, NotFoundError
from shared.ids import DeviceId, InstallationId, Sha256, SiteId

if TYPE_CHECKING:
    from pathlib import Path

_ENROL_FIRST = "run `litefleet-agent enrol --invite FILE --state DIR` first"


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker listens, as the controller told it at enrolment."""

    host: str
    port: int
    tls: bool


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """`identity.json`: all that a device knows of itself and of its controller. It holds no secret."""

    schema_version: int = 1
    device_id: DeviceId
    site: SiteId
    installation_id: InstallationId
    key_fingerprint: Sha256
    """sha256 of the DER public key (SubjectPublicKeyInfo), which every Desired for this device must name."""
    controller_url: str
    """Device listener, `https://host:port`, without a slash at the end."""
    broker: BrokerAddress
    tuf_root: bytes
    """Root metadata that this device trusted first; everything later must descend from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFiles:
    """The paths below `{state}/identity`."""

    folder: Path

    @property
    def key(self) -> Path:
        """Private key, PEM, 0600; made here and never sent anywhere."""
        return self.folder / "device.key"

    @property
    def certificate(self) -> Path:
        """Certificate that the controller issued for the key, PEM."""
        return self.folder / "device.crt"

    @property
    def authority(self) -> Path:
        """Certificate authority that controller and broker must descend from, PEM."""
        return self.folder / "ca.pem"

    @property
    def document(self) -> Path:
        """`identity.json`; written last, so that its presence means that all the others are whole."""
        return self.folder / "identity.json"


def identity_files(state_dir: Path) -> IdentityFiles:
    """Return where a device with this state folder keeps its identity."""
    return IdentityFiles(folder=state_dir / "identity")


def load_identity(state_dir: Path) -> Identity:
    """Read who this device is.

    Raises:
        NotFoundError: the device never enrolled.
        InvalidInputError: `identity.json` is damaged.
    """
    path = identity_files(state_dir).document
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError as exc:
        raise NotFoundError(kind=f"identity yet, {_ENROL_FIRST}: no file", name=str(path)) from exc
    except MALFORMED as exc:
        raise InvalidInputError(
            field=str(path), problem=f"is damaged: {exc}", remedy="enrol this device again"
        ) from exc


def client_tls(files: IdentityFiles) -> ssl.SSLContext:
    """Return TLS that shows this device's certificate and believes only its own authority, host names included."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=files.authority)
    context.load_cert_chain(files.certificate, files.key)
    return context
