"""Becoming a device, against a server that loses replies and one that lies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typing_extensions import override

from agent.link.enrol import Invite, enrol, read_invite
from agent.link.hardware import this_hardware
from agent.link.https import DeviceApi
from agent.link.identity import Identity, client_tls, identity_files, load_identity
from shared.errors import (
    ConflictError,
    InvalidIdError,
    InvalidInputError,
    NotFoundError,
    StorageFullError,
    UnreachableError,
    UntrustedError,
)
from shared.ids import DeviceId
from shared.manifest import digest
from tests.support.authority import Authority
from tests.support.device_api import DeviceServer, Fault
from tests.support.file_size import file_size_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEVICE = DeviceId("dev-7")
TOKEN = "one-time"


@dataclass(slots=True)
class Site:
    """A server with one open invite, and a folder that wants to be a device."""

    server: DeviceServer
    state: Path

    @property
    def invite(self) -> Invite:
        return Invite(
            device_id=DEVICE,
            token=TOKEN,
            expires_at=datetime(2030, 1, 1, tzinfo=UTC),
            controller_url=self.server.url,
            ca_pem=self.server.authority.pem,
        )

    async def enrol(self, invite: Invite | None = None) -> Identity:
        return await enrol(invite or self.invite, state_dir=self.state, hardware=this_hardware())

    def key(self) -> bytes:
        return identity_files(self.state).key.read_bytes()

    def enrolled(self) -> bool:
        return identity_files(self.state).document.exists()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with DeviceServer(tmp_path) as server:
        server.tokens[TOKEN] = DEVICE
        yield Site(server, tmp_path / "state")


async def test_enrol_leaves_an_identity_that_the_controller_knows(site: Site) -> None:
    identity = await site.enrol()
    assert load_identity(site.state) == identity
    assert identity.tuf_root == site.server.repository.root
    files = identity_files(site.state)
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert identity.key_fingerprint == digest(der)
    async with DeviceApi(controller_url=identity.controller_url, tls=client_tls(files)) as api:
        assert (await api.session()).boot_id == "000000000001"


async def test_enrol_keeps_the_key_from_everybody_else(site: Site) -> None:
    await site.enrol()
    files = identity_files(site.state)
    assert files.key.stat().st_mode & 0o777 == 0o600
    assert files.folder.stat().st_mode & 0o777 == 0o700


async def test_enrol_after_a_lost_reply_succeeds_with_the_same_key(site: Site) -> None:
    site.server.faults["enrol"] = Fault.LOSE_REPLY
    with pytest.raises(UnreachableError):
        await site.enrol()
    first = site.key()
    assert not site.enrolled()
    site.server.faults.clear()
    await site.enrol()
    assert site.key() == first


async def test_enrol_with_a_token_that_another_key_used_is_refused(site: Site, tmp_path: Path) -> None:
    await site.enrol()
    thief = Site(site.server, tmp_path / "thief")
    with pytest.raises(InvalidInputError, match=r"used or expired.*new invite"):
        await thief.enrol()
    assert not thief.enrolled()


async def test_enrol_twice_is_a_conflict_and_changes_nothing(site: Site) -> None:
    await site.enrol()
    before = {path.name: path.read_bytes() for path in identity_files(site.state).folder.iterdir()}
    with pytest.raises(ConflictError, match="enrolled"):
        await site.enrol()
    assert {path.name: path.read_bytes() for path in identity_files(site.state).folder.iterdir()} == before


async def test_enrol_while_the_controller_is_in_trouble_may_be_repeated(site: Site) -> None:
    site.server.faults["enrol"] = Fault.ERROR
    with pytest.raises(UnreachableError) as caught:
        await site.enrol()
    assert caught.value.retry_after_s == 7.0
    site.server.faults.clear()
    await site.enrol()


async def test_enrol_at_an_impostor_does_not_show_the_token(site: Site) -> None:
    invite = msgspec.structs.replace(site.invite, ca_pem=Authority().pem)
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        await site.enrol(invite)
    assert site.server.requests == []


async def test_enrol_redirected_does_not_carry_the_token_along(site: Site) -> None:
    site.server.faults["enrol"] = Fault.REDIRECT
    with pytest.raises(UnreachableError, match="302"):
        await site.enrol()
    assert not any("/honest/" in path for path in site.server.requests)


async def test_enrol_answered_for_another_device_is_untrusted(site: Site) -> None:
    site.server.tokens[TOKEN] = DeviceId("dev-8")
    with pytest.raises(UntrustedError, match=r"'dev-7'.*'dev-8'"):
        await site.enrol()
    assert not site.enrolled()


async def test_enrol_answered_with_nonsense_is_untrusted(site: Site) -> None:
    site.server.faults["enrol"] = Fault.FLIP
    with pytest.raises(UntrustedError, match="cannot be used"):
        await site.enrol()
    assert not site.enrolled()


class ForeignKeyAuthority(Authority):
    """Certifies some other key than it was asked to."""

    @override
    def issue_device(self, name: str, public: object) -> str:
        assert public is not None
        return super().issue_device(name, ec.generate_private_key(ec.SECP256R1()).public_key())


async def test_enrol_answered_with_a_certificate_for_another_key_is_untrusted(tmp_path: Path) -> None:
    async with DeviceServer(tmp_path, authority=ForeignKeyAuthority()) as server:
        server.tokens[TOKEN] = DEVICE
        with pytest.raises(UntrustedError, match="another key"):
            await Site(server, tmp_path / "state").enrol()


async def test_enrol_on_a_full_disk_leaves_no_identity_and_heals(site: Site) -> None:
    with file_size_limit(100), pytest.raises(StorageFullError):
        await site.enrol()
    assert not site.enrolled()
    await site.enrol()


async def test_enrol_over_a_damaged_key_says_what_to_do(site: Site) -> None:
    files = identity_files(site.state)
    files.folder.mkdir(parents=True)
    files.key.write_text("half a key")
    with pytest.raises(InvalidInputError, match=r"device\.key.*remove it"):
        await site.enrol()


def test_identity_before_enrolment_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="litefleet-agent enrol"):
        load_identity(tmp_path)


def test_identity_damaged_is_refused(tmp_path: Path) -> None:
    files = identity_files(tmp_path)
    files.folder.mkdir()
    files.document.write_text("{")
    with pytest.raises(InvalidInputError, match="damaged"):
        load_identity(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"device_id": "../x"}, InvalidIdError, "device"),
        ({"controller_url": "http://controller"}, InvalidInputError, "https://"),
        ({"token": None}, InvalidInputError, "token"),
    ],
)
async def test_invite_that_cannot_be_used_is_refused_by_name(
    site: Site, tmp_path: Path, change: dict[str, object], error: type[Exception], problem: str
) -> None:
    path = tmp_path / "invite.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(site.invite) | change))
    with pytest.raises(error, match=problem):
        read_invite(path)


async def test_invite_round_trips_through_its_file(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "invite.json"
    path.write_bytes(msgspec.json.encode(site.invite))
    assert read_invite(path) == site.invite


def test_invite_missing_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_invite(tmp_path / "none.json")
    (tmp_path / "odd.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="no invite"):
        read_invite(tmp_path / "odd.json")
