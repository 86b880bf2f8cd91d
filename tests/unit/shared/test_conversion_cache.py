"""A cache that keeps within its bounds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shared.conversion_cache import prune

if TYPE_CHECKING:
    from pathlib import Path

NOW_S = 1_000_000.0


def _file(path: Path, size: int, age_s: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def test_cache_too_large_loses_what_was_used_longest_ago(tmp_path: Path) -> None:
    old, newer, newest = (
        _file(tmp_path / "a" / "old", 40, 300),
        _file(tmp_path / "b" / "newer", 40, 200),
        _file(tmp_path / "newest", 40, 100),
    )
    assert prune(tmp_path, max_bytes=80, now_s=NOW_S) == 40
    assert [path.exists() for path in (old, newer, newest)] == [False, True, True]


def test_cache_within_its_bound_keeps_everything(tmp_path: Path) -> None:
    kept = _file(tmp_path / "kept", 80, 10_000)
    assert prune(tmp_path, max_bytes=80, now_s=NOW_S) == 0
    assert kept.exists()


def test_file_that_is_being_written_is_left_alone_until_it_was_left_for_good(tmp_path: Path) -> None:
    writing, left = _file(tmp_path / "a.new", 80, 60), _file(tmp_path / "b.new", 80, 90_000)
    prune(tmp_path, max_bytes=0, now_s=NOW_S)
    assert [writing.exists(), left.exists()] == [True, False]


def test_attack_link_in_the_cache_is_not_followed(tmp_path: Path) -> None:
    outside = _file(tmp_path / "outside" / "precious", 80, 90_000)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "link").symlink_to(outside.parent)
    prune(cache, max_bytes=0, now_s=NOW_S)
    assert outside.exists()


def test_cache_that_is_not_there_is_as_good_as_empty(tmp_path: Path) -> None:
    assert prune(tmp_path / "nowhere", max_bytes=0, now_s=NOW_S) == 0
