"""Files of trust after a power cut, a bad restore or somebody else's hand: refused by name, or made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from controller.trust.authority import Authority
from controller.trust.files import (
    open_signing_key,
    private_pem,
    read_signing_key,
    secret_folder,
    write_atomically,
)
from controller.trust.keyring import KeyRing, Role
from controller.trust.reports import ReportKeys
from shared.errors import UntrustedError
from tests.support.fleet_world import TestClock

if TYPE_CHECKING:
    from pathlib import Path

_PEM_OF_NOTHING = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
_DAMAGED = pytest.mark.parametrize(
    "content", [b"", b"\x00" * 200, _PEM_OF_NOTHING], ids=["empty", "zeros after a power cut", "PEM of nothing"]
)


def _secret(path: Path, content: bytes) -> Path:
    write_atomically(path, content, mode=0o600)
    return path


@_DAMAGED
def test_signing_key_damaged_is_refused_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = _secret(tmp_path / "root.pem", content)
    with pytest.raises(UntrustedError, match=r"root\.pem holds no private key"):
        open_signing_key(path)
    assert path.read_bytes() == content


def test_signing_key_encrypted_is_refused(tmp_path: Path) -> None:
    encrypted = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    )
    with pytest.raises(UntrustedError, match="holds no private key that can be read"):
        read_signing_key(_secret(tmp_path / "root.pem", encrypted))


def test_signing_key_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_signing_key(tmp_path / "root.pem") is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_attack_signing_key_that_others_may_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = _secret(tmp_path / "root.pem", private_pem(Ed25519PrivateKey.generate()))
    path.chmod(mode)
    with pytest.raises(UntrustedError, match="readable by others; type: chmod 600"):
        read_signing_key(path)


@_DAMAGED
@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_authority_damaged_is_refused_and_never_founded_again(tmp_path: Path, name: str, content: bytes) -> None:
    Authority.open(tmp_path, TestClock())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UntrustedError, match=name):
        Authority.open(tmp_path, TestClock())
    assert (tmp_path / name).read_bytes() == content


def test_authority_without_its_key_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path, TestClock())
    (tmp_path / "ca.key").unlink()
    with pytest.raises(UntrustedError, match="restore it from a backup"):
        Authority.open(tmp_path, TestClock())


@_DAMAGED
@pytest.mark.parametrize("name", ["broker.pem", "broker.key"])
def test_server_certificate_damaged_is_made_anew(tmp_path: Path, name: str, content: bytes) -> None:
    authority = Authority.open(tmp_path, TestClock())
    authority.server_files("broker", ["localhost"])
    (tmp_path / name).write_bytes(content)
    files = authority.server_files("broker", ["localhost"])
    assert authority.server_files("broker", ["localhost"]) == files
    assert (tmp_path / name).read_bytes() != content


@pytest.mark.parametrize("length", [0, 31])
def test_uplink_secret_cut_short_is_refused_by_its_path(tmp_path: Path, length: int) -> None:
    path = _secret(tmp_path / "uplink.key", b"x" * length)
    with pytest.raises(UntrustedError, match=rf"uplink.key has {length} bytes"):
        ReportKeys.open(path)


def test_attack_file_waiting_under_the_partial_name_does_not_open_a_secret_to_others(tmp_path: Path) -> None:
    planted = tmp_path / ".ca.key.partial"
    planted.write_bytes(b"")
    planted.chmod(0o666)
    write_atomically(tmp_path / "ca.key", b"secret", mode=0o600)
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600


def test_attack_link_under_the_partial_name_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    (tmp_path / ".ca.key.partial").symlink_to(elsewhere)
    write_atomically(tmp_path / "ca.key", b"secret", mode=0o600)
    assert elsewhere.read_bytes() == b"theirs"
    assert not (tmp_path / "ca.key").is_symlink()


def test_file_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "acl", content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("acl", b"new")]


def test_folder_of_secrets_is_for_its_owner_only(tmp_path: Path) -> None:
    assert secret_folder(tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_keyring_says_where_a_key_that_is_kept_elsewhere_must_come(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert ring.find(Role.ROOT) is None
    with pytest.raises(UntrustedError, match=r"top-level/root\.pem"):
        ring.need(Role.ROOT)


def test_keyring_makes_every_key_once(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.make_missing()
    made = {role: ring.need(role).private_bytes_raw() for role in Role}
    ring.make_missing()
    assert {role: ring.need(role).private_bytes_raw() for role in Role} == made
    assert len(set(made.values())) == len(Role)


@pytest.mark.parametrize(
    ("kept_elsewhere", "lab"), [((), True), ((Role.ROOT,), True), ((Role.ROOT, Role.TARGETS), False)]
)
def test_keyring_is_a_lab_while_a_top_level_key_is_here(
    tmp_path: Path, kept_elsewhere: tuple[Role, ...], lab: bool
) -> None:
    ring = KeyRing(tmp_path)
    ring.make_missing()
    for role in kept_elsewhere:
        ring.path(role).unlink()
    assert ring.lab_mode is lab
