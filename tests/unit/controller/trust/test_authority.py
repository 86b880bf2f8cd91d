"""The certificate authority, the director and the keys of reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from controller.trust.authority import Authority, requested_key
from controller.trust.broker_config import access_list
from controller.trust.director import Director
from controller.trust.files import open_signing_key, private_pem, write_atomically
from controller.trust.installation import Trust
from controller.trust.reports import ReportKeys
from shared.errors import InvalidInputError, UnsealError, UntrustedError
from shared.ids import BootId, DeviceId, Epoch, InstallationId
from shared.signing import unseal, uplink_mac
from shared.topics import Channel, device_topic
from shared.wire import DESIRED_TYPE, PULSE_TYPE, Pulse, Uplink
from tests.support.fleet_world import TestClock

if TYPE_CHECKING:
    from pathlib import Path

CAM = DeviceId("cam-1")
BOOT = BootId("000000000001")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_authority_opened_again_is_the_same(tmp_path: Path) -> None:
    clock = TestClock()
    assert Authority.open(tmp_path, clock).ca_pem == Authority.open(tmp_path, clock).ca_pem


def test_authority_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "authority", TestClock())
    authority.server_files("broker", ["localhost"])
    authority.controller_files()
    keys = list((tmp_path / "authority").glob("*.key"))
    assert len(keys) == 3
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_authority_with_another_key_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path, TestClock())
    write_atomically(tmp_path / "ca.key", private_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(UntrustedError, match="not the key of"):
        Authority.open(tmp_path, TestClock())


def test_server_certificate_names_the_server_and_can_be_no_client(tmp_path: Path) -> None:
    files = Authority.open(tmp_path, TestClock()).server_files("broker", ["broker.example", "127.0.0.1", "::1"])
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_server_certificate_is_kept_until_it_ages_or_its_names_change(tmp_path: Path) -> None:
    clock = TestClock()
    authority = Authority.open(tmp_path, clock)
    first = authority.server_files("broker", ["localhost"]).certificate.read_bytes()
    clock.at += timedelta(days=200)
    assert authority.server_files("broker", ["localhost"]).certificate.read_bytes() == first
    other = authority.server_files("broker", ["localhost", "broker.example"]).certificate.read_bytes()
    assert other != first
    clock.at += timedelta(days=300)
    assert authority.server_files("broker", ["localhost", "broker.example"]).certificate.read_bytes() != other


def test_certificate_cut_off_from_its_key_by_a_crash_is_made_anew(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, TestClock())
    files = authority.server_files("broker", ["localhost"])
    before = files.certificate.read_bytes()
    write_atomically(files.key, private_pem(ec.generate_private_key(ec.SECP256R1())))
    assert authority.server_files("broker", ["localhost"]).certificate.read_bytes() != before


@given(st.binary(max_size=300))
def test_attack_signing_request_of_any_bytes_is_refused(request_pem: bytes) -> None:
    with pytest.raises(InvalidInputError):
        requested_key(request_pem)


def test_director_seals_what_its_public_key_opens_and_nothing_else() -> None:
    director = Director(Ed25519PrivateKey.generate())
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(director.public_hex))
    pulse = Pulse(installation_id=InstallationId("i"), epoch=Epoch(1), serial=1, issued_at=NOW)
    sealed = director.pulse(pulse)
    payload, key = unseal(sealed, payload_type=PULSE_TYPE, keys={director.key_id: public})
    assert (msgspec.json.decode(payload, type=Pulse), key) == (pulse, director.key_id)
    with pytest.raises(UnsealError, match="sealed as"):
        unseal(sealed, payload_type=DESIRED_TYPE, keys={director.key_id: public})


def uplink(keys: ReportKeys, device: DeviceId = CAM, boot: BootId = BOOT) -> tuple[str, Uplink]:
    topic = device_topic(device, Channel.REPORT)
    mac = uplink_mac(keys.mac_key(device, boot), topic=topic, boot_id=boot, seq=1, body=b"{}")
    return topic, Uplink(boot_id=boot, seq=1, mac=mac, body=msgspec.Raw(b"{}"))


def test_uplink_is_proved_by_its_devices_key_only(tmp_path: Path) -> None:
    keys = ReportKeys.open(tmp_path / "uplink.key")
    topic, said = uplink(keys)
    assert keys.proves(said, device=CAM, topic=topic)
    assert ReportKeys.open(tmp_path / "uplink.key").proves(said, device=CAM, topic=topic)
    assert not keys.proves(said, device=DeviceId("cam-2"), topic=topic)
    assert not keys.proves(said, device=CAM, topic=device_topic(CAM, Channel.HEARTBEAT))
    assert not ReportKeys(b"x" * 32).proves(said, device=CAM, topic=topic)
    assert (tmp_path / "uplink.key").stat().st_mode & 0o777 == 0o600


def test_uplink_keys_differ_by_device_and_by_boot(tmp_path: Path) -> None:
    keys = ReportKeys.open(tmp_path / "uplink.key")
    made = {keys.mac_key(DeviceId(device), BootId(boot)) for device in ("a", "b") for boot in ("1", "2")}
    assert len(made) == 4


def test_uplink_master_key_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than"):
        ReportKeys(b"short")


def test_signing_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_atomically(path, private_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
    with pytest.raises(UntrustedError, match="ed25519"):
        open_signing_key(path)


def test_installation_opened_again_is_the_same(tmp_path: Path) -> None:
    first, again = Trust.open(tmp_path, clock=TestClock()), Trust.open(tmp_path, clock=TestClock())
    assert first.installation_id == again.installation_id
    assert first.director.key_id == again.director.key_id
    assert first.lab_mode


def test_access_list_denies_the_named_devices_and_no_others() -> None:
    text = access_list([DeviceId("cam-2"), DeviceId("cam-1")])
    assert text.endswith("\nuser cam-1\ntopic deny lf/v1/#\n\nuser cam-2\ntopic deny lf/v1/#\n")
    assert "deny" not in access_list([])
