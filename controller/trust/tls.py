"""TLS as both listeners and the broker connection use it, and who a peer's certificate says it is."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from shared.ids import Sha256

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

CONTROLLER_NAME: Final = "controller"
"""CN of the controller's own certificate; no device may bear it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """A certificate, its key (0600) and the authority that vouches for the other side."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who a verified client certificate belongs to."""

    common_name: str
    fingerprint: Sha256
    """sha256 of the DER public key."""


def fingerprint_of(public: CertificatePublicKeyTypes) -> Sha256:
    """Return the sha256 of a public key as DER SubjectPublicKeyInfo, in hex."""
    return Sha256(hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest())


def device_listener_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return the TLS of the device listener: client certificates are asked for and verified, but may be absent.

    A device that enrols has none yet; every other route demands one.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(str(files.certificate), str(files.key))
    return context


def client_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return the TLS of a client that shows a certificate and trusts this authority only."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(files.certificate), str(files.key))
    return context


def peer_of(connection: ssl.SSLObject | ssl.SSLSocket | None) -> Peer | None:
    """Return who is at the other end, or None without TLS or without a certificate; TLS has verified it already."""
    certificate = None if connection is None else connection.getpeercert(binary_form=True)
    if not certificate:
        return None
    parsed = x509.load_der_x509_certificate(certificate)
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    # Two names would let one reader believe the first and another the last.
    if len(names) != 1:
        return None
    return Peer(common_name=str(names[0].value), fingerprint=fingerprint_of(parsed.public_key()))
