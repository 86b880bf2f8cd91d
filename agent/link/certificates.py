"""The device's key and certificate: made, asked for, checked, and renewed in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from agent.delivery.durable import sync_folder, write_whole
from shared.errors import InvalidInputError, UntrustedError
from shared.manifest import digest

if TYPE_CHECKING:
    import ssl
    from datetime import datetime

    from agent.link.https import DeviceApi
    from agent.link.identity import IdentityFiles
    from shared.ids import DeviceId, Sha256


def own_key(files: IdentityFiles) -> ec.EllipticCurvePrivateKey:
    """Return the key of this device, made at the first try and kept for ever: token and enrolment are bound to it.

    Raises:
        InvalidInputError: the key file is damaged.
        StorageFullError: no room for a new one.
    """
    files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    sync_folder(files.folder.parent)
    if not files.key.exists():
        fresh = ec.generate_private_key(ec.SECP256R1())
        write_whole(files.key, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return fresh
    try:
        key = load_pem_private_key(files.key.read_bytes(), password=None)
    except ValueError as exc:
        raise InvalidInputError(field=str(files.key), problem="is no key", remedy="remove it") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInputError(field=str(files.key), problem="is no elliptic-curve key", remedy="remove it")
    return key


def signing_request(key: ec.EllipticCurvePrivateKey, device: DeviceId) -> str:
    """Return a PEM request to certify the key; the controller goes by what it knows, not by the name in here."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def fingerprint(key: ec.EllipticCurvePrivateKey) -> Sha256:
    """Return the sha256 of the DER public key (SubjectPublicKeyInfo)."""
    return digest(_public_der(key.public_key()))


def check_certificate(
    certificate_pem: str, authorities_pem: str, *, device: DeviceId, key: ec.EllipticCurvePrivateKey
) -> None:
    """Refuse a certificate that would leave this device with somebody else's identity, or with none that works.

    Raises:
        UntrustedError: says what does not fit.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        authorities = x509.load_pem_x509_certificates(authorities_pem.encode())
    except ValueError as exc:
        raise UntrustedError(f"the certificates cannot be read: {exc}") from exc
    # More than one while an installation changes its authority.
    if not any(_issued(certificate, authority) for authority in authorities):
        raise UntrustedError("the certificate is not of this installation's authority")
    names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device]:
        raise UntrustedError(f"the certificate is for {names}, this device is {device!r}")
    if _public_der(certificate.public_key()) != _public_der(key.public_key()):
        raise UntrustedError("the certificate is for another key")


def renew_at(files: IdentityFiles) -> datetime:
    """Return when the certificate should be renewed: at half its life, so that weeks of failing tries lose nothing.

    Raises:
        InvalidInputError: the certificate file is damaged.
    """
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    except (OSError, ValueError) as exc:
        raise InvalidInputError(field=str(files.certificate), problem=f"cannot be read: {exc}") from exc
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begins + (ends - begins) / 2


async def renew(api: DeviceApi, files: IdentityFiles, *, device: DeviceId, tls: ssl.SSLContext) -> datetime:
    """Have the same key certified anew, let `tls` show the new certificate from the next connection on.

    Returns when to do it again. The old certificate stays good until it ends, so a lost reply costs nothing.

    Raises:
        UnreachableError: not now.
        UntrustedError: the controller refuses this device, or its answer does not fit.
        StorageFullError: the old certificate still stands.
    """
    key = own_key(files)
    certificate_pem = await api.renew(signing_request(key, device))
    check_certificate(certificate_pem, files.authority.read_text(), device=device, key=key)
    write_whole(files.certificate, certificate_pem.encode())
    tls.load_cert_chain(files.certificate, files.key)
    return renew_at(files)


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _public_der(public: object) -> bytes:
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return b""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
