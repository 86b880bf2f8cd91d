"""What enrolment wrote and what an operator hands over: read whole, or refused with what would mend it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.link.answers import Problem, problem_in, story
from agent.link.enrol import Invite, read_invite
from agent.link.hardware import this_hardware
from agent.link.identity import BrokerAddress, Identity, identity_files, load_identity
from shared.errors import InvalidIdError, InvalidInputError, NotFoundError
from shared.ids import DeviceId, InstallationId, Sha256, SiteId

if TYPE_CHECKING:
    from pathlib import Path

_IDENTITY = Identity(
    device_id=DeviceId("cam-1"),
    site=SiteId("north"),
    installation_id=InstallationId("inst"),
    key_fingerprint=Sha256("f" * 64),
    controller_url="https://controller:8471",
    broker=BrokerAddress(host="broker", port=8883, tls=True),
    tuf_root=b"\x00root",
)
_INVITE = Invite(
    device_id=DeviceId("cam-1"),
    token="once",
    expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    controller_url="https://controller:8471",
    ca_pem="pem",
)
_NOT_JSON = pytest.mark.parametrize(
    "content", [b"", b"\x00" * 50, b"{}", b"\xff\xfe", b"[" * 100_000], ids=["empty", "zeros", "{}", "UTF-16", "nested"]
)


def _write(state: Path, content: bytes) -> Path:
    path = identity_files(state).document
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_identity_written_is_read_back(tmp_path: Path) -> None:
    _write(tmp_path, msgspec.json.encode(_IDENTITY))
    assert load_identity(tmp_path) == _IDENTITY


def test_identity_of_a_machine_that_never_enrolled_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="litefleet-agent enrol"):
        load_identity(tmp_path)


@_NOT_JSON
def test_identity_damaged_is_refused_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(InvalidInputError, match="enrol this device again") as refusal:
        load_identity(tmp_path)
    assert refusal.value.field == str(path)


def _invite(folder: Path, **changes: object) -> Path:
    path = folder / "invite.json"
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(_INVITE), **changes}))
    return path


def test_invite_handed_over_is_read(tmp_path: Path) -> None:
    assert read_invite(_invite(tmp_path, added_later=1)) == _INVITE


@_NOT_JSON
def test_invite_that_is_none_is_refused_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "invite.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="is no invite") as refusal:
        read_invite(path)
    assert refusal.value.remedy


@pytest.mark.parametrize("url", ["http://controller:8471", "ftp://x", "", "//controller"])
def test_attack_invite_to_a_controller_without_tls_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInputError, match="https://"):
        read_invite(_invite(tmp_path, controller_url=url))


@pytest.mark.parametrize("name", ["../../etc", "a/b", "#", "+", "A", ""])
def test_attack_invite_for_a_name_that_leaves_its_place_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidIdError):
        read_invite(_invite(tmp_path, device_id=name))


def test_machine_describes_itself() -> None:
    hardware = this_hardware()
    assert hardware.architecture
    assert hardware.cores >= 1
    assert hardware.memory_bytes > 2**20
    assert hardware.runtime_version


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"reason": "conflict", "detail": "in use", "title": "Conflict"}', "status 409: conflict: in use"),
        (b'{"title": "Conflict"}', "status 409: Conflict"),
        (b'{"reason": "conflict", "later": 1}', "status 409: conflict"),
        (b"<html>proxy</html>", "status 409"),
        (b"", "status 409"),
        (b"[" * 100_000, "status 409"),
    ],
)
def test_refusal_is_told_in_one_line_whatever_the_body(body: bytes, said: str) -> None:
    assert story(409, body) == said


def test_problem_of_another_shape_is_none() -> None:
    assert problem_in(b'{"reason": 7}') == Problem()
