from __future__ import annotations

from typing import TYPE_CHECKING

from agent.delivery.durable import write_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_write_whole_replaces_the_content_for_its_owner_only(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    write_whole(target, b"old")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_attack_link_under_the_partial_name_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"untouched")
    (tmp_path / ".secret.new").symlink_to(elsewhere)
    write_whole(tmp_path / "secret", b"new")
    assert elsewhere.read_bytes() == b"untouched"
    assert (tmp_path / "secret").read_bytes() == b"new"
