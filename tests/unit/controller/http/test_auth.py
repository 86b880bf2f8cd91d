"""The operator token: made once, for its owner only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.http.auth import load_or_create
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


def test_token_first_start_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "operator-token"
    load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text().strip()) >= 43
    assert [entry.name for entry in path.parent.iterdir()] == ["operator-token"]


def test_token_next_start_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "operator-token"
    load_or_create(path)
    before = path.read_text()
    load_or_create(path)
    assert path.read_text() == before


def test_token_readable_by_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operator-token"
    load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(InvalidInputError, match="chmod 600"):
        load_or_create(path)


def test_token_empty_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operator-token"
    path.touch(mode=0o600)
    with pytest.raises(InvalidInputError, match="empty"):
        load_or_create(path)


def test_token_does_not_show_in_a_dump_of_its_object(tmp_path: Path) -> None:
    path = tmp_path / "operator-token"
    token = load_or_create(path)
    assert path.read_text().strip() not in repr(vars(token))
