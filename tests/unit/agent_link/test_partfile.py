"""A file that is still coming: what an earlier try left counts only as far as it is right in the end."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.delivery.partfile import PartFile
from shared.errors import DigestMismatchError, StorageFullError
from shared.ids import Sha256
from shared.wire import TargetRef

if TYPE_CHECKING:
    from pathlib import Path

_CONTENT = bytes(range(256)) * 8
_REF = TargetRef(path="artifacts/x", length_bytes=len(_CONTENT), sha256=Sha256(hashlib.sha256(_CONTENT).hexdigest()))


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "model.tflite"


def _left(into: Path, content: bytes) -> Path:
    """Leave what an earlier try got."""
    path = into.with_name("model.tflite.part")
    path.write_bytes(content)
    return path


def test_file_is_invisible_until_it_is_whole(into: Path) -> None:
    part = PartFile(into, _REF)
    part.append(_CONTENT[:100])
    assert not part.is_right
    assert not into.exists()
    part.append(_CONTENT[100:])
    part.publish()
    part.close()
    assert into.read_bytes() == _CONTENT
    assert [path.name for path in into.parent.iterdir()] == ["model.tflite"]


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, len(_CONTENT)), max_size=6))
def test_file_cut_anywhere_and_taken_up_again_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    into = tmp_path_factory.mktemp("cut") / "model.tflite"
    for until in [*sorted(cuts), len(_CONTENT)]:
        part = PartFile(into, _REF)
        part.append(_CONTENT[part.size_bytes : until])
        part.close()
    last = PartFile(into, _REF)
    last.publish()
    last.close()
    assert into.read_bytes() == _CONTENT


def test_file_taken_up_again_goes_on_where_it_was(into: Path) -> None:
    _left(into, _CONTENT[:700])
    part = PartFile(into, _REF)
    assert (part.size_bytes, part.missing_bytes) == (700, len(_CONTENT) - 700)
    part.close()


def test_file_left_longer_than_promised_begins_anew(into: Path) -> None:
    left = _left(into, _CONTENT + b"more")
    part = PartFile(into, _REF)
    part.close()
    assert (part.size_bytes, left.read_bytes()) == (0, b"")


@pytest.mark.parametrize("content", [_CONTENT[:-1], b"x" + _CONTENT[1:], b""], ids=["short", "changed", "nothing"])
def test_attack_file_that_is_not_what_was_promised_is_never_published(into: Path, content: bytes) -> None:
    part = PartFile(into, _REF)
    part.append(content)
    with pytest.raises(DigestMismatchError, match="artifacts/x"):
        part.publish()
    part.close()
    assert list(into.parent.iterdir()) == []


def test_attack_bytes_changed_on_disk_between_two_tries_are_found(into: Path) -> None:
    left = _left(into, _CONTENT[:700])
    left.write_bytes(b"\xff" + _CONTENT[1:700])
    part = PartFile(into, _REF)
    part.append(_CONTENT[700:])
    with pytest.raises(DigestMismatchError):
        part.publish()
    part.close()


def test_file_published_over_another_replaces_it(into: Path) -> None:
    into.write_bytes(b"rotten")
    part = PartFile(into, _REF)
    part.append(_CONTENT)
    part.publish()
    part.close()
    assert into.read_bytes() == _CONTENT


def test_restart_forgets_what_came(into: Path) -> None:
    part = PartFile(into, _REF)
    part.append(b"wrong from the beginning")
    part.restart()
    part.append(_CONTENT)
    assert part.is_right
    part.close()


def test_file_that_the_disk_has_no_room_for_is_not_begun(into: Path) -> None:
    left = _left(into, _CONTENT[:10])
    part = PartFile(into, _REF)
    with pytest.raises(StorageFullError, match=r"2038 bytes to come and \d+ in reserve"):
        part.check_room(reserve_bytes=2**62)
    part.close()
    assert not left.exists()


def test_part_file_is_its_owners_only(into: Path) -> None:
    part = PartFile(into, _REF)
    part.close()
    assert into.with_name("model.tflite.part").stat().st_mode & 0o777 == 0o600
