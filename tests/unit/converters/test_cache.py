from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converters.judgement import cache
from converters.judgement.cache import Cache
from shared.conversion import Recipe
from shared.manifest import Scheme

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = Recipe(scheme=Scheme.MIXED, kept_float=("a", "b"))


def test_piece_is_kept_and_found(tmp_path: Path) -> None:
    Cache(tmp_path / "kept").put("k", b"content")
    assert Cache(tmp_path / "kept").get("k") == b"content"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["k"]


def test_piece_never_kept_is_none(tmp_path: Path) -> None:
    assert Cache(tmp_path / "nowhere").get("k") is None


@pytest.mark.parametrize("size", [0, 1, 31, 32, 38])
def test_piece_cut_at_any_byte_is_as_good_as_none(tmp_path: Path, size: int) -> None:
    kept = Cache(tmp_path)
    kept.put("k", b"content")
    whole = (tmp_path / "k").read_bytes()
    (tmp_path / "k").write_bytes(whole[:size])
    assert kept.get("k") is None


def test_piece_with_a_flipped_bit_is_as_good_as_none(tmp_path: Path) -> None:
    kept = Cache(tmp_path)
    kept.put("k", b"content")
    content = bytearray((tmp_path / "k").read_bytes())
    content[2] ^= 1
    (tmp_path / "k").write_bytes(content)
    assert kept.get("k") is None


def test_piece_that_is_asked_for_counts_as_used(tmp_path: Path) -> None:
    import os

    kept = Cache(tmp_path)
    kept.put("k", b"content")
    os.utime(tmp_path / "k", (1, 1))
    kept.get("k")
    assert (tmp_path / "k").stat().st_mtime > 1


def test_piece_that_cannot_be_written_leaves_nothing_and_stops_nobody(tmp_path: Path) -> None:
    kept = Cache(tmp_path)
    (tmp_path / "k").mkdir()
    kept.put("k", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    (tmp_path / "file").write_bytes(b"")
    Cache(tmp_path / "file").put("k", b"content")
    assert Cache(tmp_path / "file").get("k") is None


def test_struct_is_kept_and_one_of_another_version_is_none(tmp_path: Path) -> None:
    kept = Cache(tmp_path)
    kept.put_struct("k", RECIPE)
    assert kept.get_struct("k", Recipe) == RECIPE
    kept.put("k", b'{"scheme": "unheard of"}')
    assert kept.get_struct("k", Recipe) is None


def test_key_depends_on_every_part_and_on_their_borders() -> None:
    keys = {
        cache.key("a", "x", "y"),
        cache.key("b", "x", "y"),
        cache.key("a", "y", "x"),
        cache.key("a", "xy"),
        cache.key("a", "x", "y", None),
        cache.key("a", b"x", b"y"),
        cache.key("a", RECIPE),
    }
    assert len(keys) == 7
    assert cache.key("a", RECIPE) == cache.key("a", Recipe(scheme=Scheme.MIXED, kept_float=("a", "b")))


def test_program_is_named_by_its_code() -> None:
    assert cache.program() == cache.program()
    assert len(cache.program()) == 64
