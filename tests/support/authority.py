"""A certificate authority for tests: server certificates for loopback, and client certificates named for devices."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

# Certificates of tests need no true date, only one that holds whenever the tests run.
_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_UNTIL = _FROM + timedelta(days=365 * 80)


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Authority:
    """One root that issues directly."""

    def __init__(self, name: str = "litefleet test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.pem = self._certificate.public_bytes(Encoding.PEM).decode()

    def issue_device(self, name: str, public: CertificateIssuerPublicKeyTypes) -> str:
        """Return a client certificate as PEM, good for as long as any test runs."""
        return self.issue_between(name, public, since=_FROM, until=_UNTIL)

    def issue_between(
        self, name: str, public: CertificateIssuerPublicKeyTypes, *, since: datetime, until: datetime
    ) -> str:
        """Return a client certificate as PEM, good for a certain time."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = self._builder(subject, public, since=since, until=until).add_extension(usage, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def write_server(self, folder: Path, host: str = "localhost") -> tuple[Path, Path]:
        """Write a server certificate for `host` and 127.0.0.1, and its key; return both paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        builder = self._builder(subject, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        certificate_path, key_path = folder / "server.crt", folder / "server.key"
        pem = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        certificate_path.write_bytes(pem)
        key_path.write_text(key_pem(key))
        (folder / "ca.pem").write_text(self.pem)
        return certificate_path, key_path

    def write_member(self, folder: Path, name: str) -> tuple[Path, Path, Path]:
        """Write this authority, and the certificate and key of somebody who calls and is called; return the paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key()).add_extension(both, critical=False)
        ca, certificate, private = (folder / f"{name}.{suffix}" for suffix in ("ca", "crt", "key"))
        ca.write_text(self.pem)
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        private.write_text(key_pem(key))
        return ca, certificate, private

    def server_tls(self, folder: Path, host: str = "localhost") -> ssl.SSLContext:
        """Return TLS for a loopback server that takes client certificates of this authority, and asks for them."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.write_server(folder, host))
        context.load_verify_locations(cadata=self.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _builder(
        self,
        subject: x509.Name,
        public: CertificateIssuerPublicKeyTypes,
        *,
        since: datetime = _FROM,
        until: datetime = _UNTIL,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )
