"""The installation's own certificate authority: who is a device, who is the controller, who is the broker.

A device's certificate says its id (CN), and nothing else about it is believed: the subject that it asks for is ignored.
P-256 throughout, because every TLS stack on every small device can do it.
"""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.facts import IssuedCertificate
from controller.trust.files import SECRET_MODE, private_pem, read_private_key, secret_folder, write_atomically
from controller.trust.tls import CONTROLLER_NAME, CertificateFiles, fingerprint_of
from shared.errors import InvalidInputError, UntrustedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from shared.clock import Clock
    from shared.ids import DeviceId, Sha256

DEVICE_LIFETIME = timedelta(days=30)
"""Short, so that a certificate that nobody renews dies soon; agents renew at half of it."""
_SERVER_LIFETIME = timedelta(days=397)  # what public authorities allow at most; some TLS stacks refuse more
_AUTHORITY_LIFETIME = timedelta(days=3650)
# A device's clock may be somewhat behind when it first meets a certificate that was made a moment ago.
_BACKDATED = timedelta(hours=1)
_MAX_CSR_BYTES = 8 * 1024
_CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "litefleet device authority")])


class Authority:
    """Issues certificates from one folder: `ca.pem`, `ca.key` (0600) and the controller's own."""

    def __init__(self, *, folder: Path, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, clock: Clock) -> None:
        self.folder = folder
        self._key = key
        self._ca = ca
        self._clock = clock

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> Authority:
        """Take up the authority in `folder`, or found it.

        Raises:
            UntrustedError: certificate and key do not belong together, are of another kind, or cannot be read.
        """
        secret_folder(folder)
        certificate, key_file = folder / "ca.pem", folder / "ca.key"
        if not certificate.exists():
            _found(certificate, key_file, clock)
        key, ca = read_private_key(key_file), _read_certificate(certificate)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
            raise UntrustedError(f"{key_file} is not the key of {certificate}: restore the folder from a backup")
        return cls(folder=folder, key=key, ca=ca, clock=clock)

    @property
    def ca_pem(self) -> bytes:
        """The authority's own certificate, which devices and broker trust."""
        return self._ca.public_bytes(Encoding.PEM)

    @property
    def ca_file(self) -> Path:
        """Where it lies."""
        return self.folder / "ca.pem"

    def issue_device(self, csr_pem: bytes, device: DeviceId) -> IssuedCertificate:
        """Return a client certificate for the key in a signing request, in the name of `device`.

        Raises:
            InvalidInputError: no signing request, not signed by its own key, or not a P-256 key.
        """
        # The broker grants by this name: such a certificate could write to every device.
        if device == CONTROLLER_NAME:
            raise InvalidInputError(
                field="device", problem="this name is the controller's own", remedy="choose another"
            )
        # Only the key is taken from the request: name, usage and lifetime are the authority's to say.
        public = requested_key(csr_pem)
        certificate = self._issue(device, public, ExtendedKeyUsageOID.CLIENT_AUTH, DEVICE_LIFETIME, names=())
        return IssuedCertificate(
            pem=certificate.public_bytes(Encoding.PEM),
            fingerprint=fingerprint_of(public),
            expires_at=certificate.not_valid_after_utc,
        )

    def fingerprint_of_request(self, csr_pem: bytes) -> Sha256:
        """Return the fingerprint of the key in a signing request. Raises InvalidInputError as `issue_device`."""
        return fingerprint_of(requested_key(csr_pem))

    def server_files(self, name: str, names: Sequence[str]) -> CertificateFiles:
        """Return a server certificate for host names and addresses, made or renewed where needed.

        Args:
            name: what the files are called: `device-listener`, `broker`.
            names: every name and address by which clients will call the server.
        """
        return self._files(name, ExtendedKeyUsageOID.SERVER_AUTH, tuple(names))

    def controller_files(self) -> CertificateFiles:
        """Return the client certificate by which the broker knows the controller."""
        return self._files(CONTROLLER_NAME, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def _files(self, name: str, usage: x509.ObjectIdentifier, names: tuple[str, ...]) -> CertificateFiles:
        files = CertificateFiles(
            certificate=self.folder / f"{name}.pem", key=self.folder / f"{name}.key", ca=self.ca_file
        )
        if not self._still_good(files, names):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self._issue(name, key.public_key(), usage, _SERVER_LIFETIME, names=names)
            # A crash between the two leaves a pair that does not match, which is made anew at the next start.
            write_atomically(files.key, private_pem(key), mode=SECRET_MODE)
            write_atomically(files.certificate, certificate.public_bytes(Encoding.PEM))
        return files

    def _still_good(self, files: CertificateFiles, names: tuple[str, ...]) -> bool:
        if not (files.certificate.exists() and files.key.exists()):
            return False
        try:
            certificate, key = _read_certificate(files.certificate), read_private_key(files.key)
        except UntrustedError:
            # Nobody else depends on this pair: it is made anew.
            return False
        expires_soon = certificate.not_valid_after_utc - self._clock.now() < _SERVER_LIFETIME / 3
        return (
            key.public_key() == certificate.public_key()
            and certificate.issuer == self._ca.subject
            and not expires_soon
            and _names_of(certificate) == {str(name) for name in _general_names(names)}
        )

    def _issue(
        self,
        common_name: str,
        public: ec.EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        lifetime: timedelta,
        *,
        names: tuple[str, ...],
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _dated(x509.CertificateBuilder(), self._clock.now(), lifetime)
        builder = (
            builder.subject_name(subject)
            .issuer_name(self._ca.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise UntrustedError(f"{path} holds no certificate that can be read: restore it from a backup") from exc


def _found(certificate: Path, key_file: Path, clock: Clock) -> None:
    """Make the authority; the certificate is written last and is what says that it exists."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _dated(x509.CertificateBuilder(), clock.now(), _AUTHORITY_LIFETIME)
    ca = (
        builder.subject_name(_CA_NAME)
        .issuer_name(_CA_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomically(key_file, private_pem(key), mode=SECRET_MODE)
    write_atomically(certificate, ca.public_bytes(Encoding.PEM))


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key of a stranger's signing request, proved to be theirs. Raises InvalidInputError."""
    if len(csr_pem) > _MAX_CSR_BYTES:
        raise InvalidInputError(field="csr_pem", problem=f"larger than {_MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        proved = request.is_signature_valid
        public = request.public_key()
    except Exception as exc:
        raise InvalidInputError(field="csr_pem", problem="not a PEM certificate signing request") from exc
    if not proved:
        raise InvalidInputError(field="csr_pem", problem="not signed by the key that it names")
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidInputError(field="csr_pem", problem="not a P-256 key", remedy="make an EC key on secp256r1")
    return public


def _dated(builder: x509.CertificateBuilder, now: datetime, lifetime: timedelta) -> x509.CertificateBuilder:
    return builder.not_valid_before(now - _BACKDATED).not_valid_after(now + lifetime)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in dict.fromkeys(names)]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {str(name) for name in extension.value}
