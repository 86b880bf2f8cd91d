"""Who is let in by TLS, and as whom: real handshakes, in memory."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from controller.trust.authority import Authority
from controller.trust.files import private_pem
from controller.trust.tls import CONTROLLER_NAME, CertificateFiles, client_context, device_listener_context, peer_of
from shared.ids import DeviceId, Sha256
from tests.support.fleet_world import TestClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class _Wire:
    """Two ends of one connection."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, *, name: str = "localhost") -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(up, down, server_side=True)
        self.client = client.wrap_bio(down, up, server_hostname=name)

    def shake(self) -> None:
        """Hand records to and fro until both are through, and the server has judged the client's certificate."""
        for _ in range(4):
            for step in (self.client.do_handshake, self.server.do_handshake):
                _as_far_as_it_goes(step)
        self.client.write(b"x")
        assert self.server.read(1) == b"x"


def _as_far_as_it_goes(step: Callable[[], None]) -> None:
    try:
        step()
    except ssl.SSLWantReadError:
        return


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("ours"), TestClock())


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("theirs"), TestClock())


@pytest.fixture(scope="module")
def listener(authority: Authority) -> ssl.SSLContext:
    return device_listener_context(authority.server_files("device-listener", ["localhost"]))


def _device(authority: Authority, folder: Path, name: str = "cam-1") -> tuple[CertificateFiles, Sha256]:
    """Enrol a device and return its files, and the fingerprint that it was issued under."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever-it-likes")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    issued = authority.issue_device(request.public_bytes(Encoding.PEM), DeviceId(name))
    files = CertificateFiles(certificate=folder / "device.crt", key=folder / "device.key", ca=authority.ca_file)
    files.certificate.write_bytes(issued.pem)
    files.key.write_bytes(private_pem(key))
    return files, issued.fingerprint


def test_peer_is_who_the_authority_named_and_not_who_it_asked_to_be(
    authority: Authority, listener: ssl.SSLContext, tmp_path: Path
) -> None:
    files, fingerprint = _device(authority, tmp_path)
    wire = _Wire(listener, client_context(files))
    wire.shake()
    peer = peer_of(wire.server)
    assert peer is not None
    assert (peer.common_name, peer.fingerprint) == ("cam-1", fingerprint)


def test_device_without_a_certificate_is_let_in_as_nobody(authority: Authority, listener: ssl.SSLContext) -> None:
    wire = _Wire(listener, ssl.create_default_context(cafile=str(authority.ca_file)))
    wire.shake()
    assert peer_of(wire.server) is None


def test_connection_without_tls_is_nobodys() -> None:
    assert peer_of(None) is None


def test_attack_certificate_of_another_authority_is_refused(
    authority: Authority, strangers: Authority, listener: ssl.SSLContext, tmp_path: Path
) -> None:
    files, _ = _device(strangers, tmp_path)
    forged = CertificateFiles(certificate=files.certificate, key=files.key, ca=authority.ca_file)
    with pytest.raises(ssl.SSLError):
        _Wire(listener, client_context(forged)).shake()


def test_attack_server_certificate_used_as_a_client_is_refused(authority: Authority, listener: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLError):
        _Wire(listener, client_context(authority.server_files("device-listener", ["localhost"]))).shake()


def test_attack_device_that_plays_the_server_is_refused(authority: Authority, tmp_path: Path) -> None:
    files, _ = _device(authority, tmp_path, name="localhost")
    with pytest.raises(ssl.SSLError):
        _Wire(device_listener_context(files), client_context(authority.controller_files())).shake()


def test_attack_server_of_another_authority_is_refused(authority: Authority, strangers: Authority) -> None:
    theirs = device_listener_context(strangers.server_files("device-listener", ["localhost"]))
    with pytest.raises(ssl.SSLCertVerificationError):
        _Wire(theirs, client_context(authority.controller_files())).shake()


def test_server_called_by_a_name_that_it_does_not_have_is_refused(
    authority: Authority, listener: ssl.SSLContext
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _Wire(listener, client_context(authority.controller_files()), name="elsewhere").shake()


def test_controller_is_known_by_its_own_name(authority: Authority, listener: ssl.SSLContext) -> None:
    wire = _Wire(listener, client_context(authority.controller_files()))
    wire.shake()
    peer = peer_of(wire.server)
    assert peer is not None
    assert peer.common_name == CONTROLLER_NAME


def test_old_tls_is_refused(authority: Authority, listener: ssl.SSLContext) -> None:
    for context in (listener, client_context(authority.controller_files())):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
