"""What is extracted of an archive."""

from __future__ import annotations

import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.support.packages import WrongPackageError, member_of

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = {"x/data/a.txt": "a", "x/data/b.txt": "b", "x/c.txt": "c", "other.txt": "o"}


@pytest.fixture(params=["made-1.whl", "made-1.tar.gz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as content:
            for name, text in CONTENT.items():
                content.writestr(name, text)
        return path
    with tarfile.open(path, "w:gz") as content:
        for name, text in CONTENT.items():
            (tmp_path / "member").write_text(text)
            content.add(tmp_path / "member", name)
    return path


def test_folder_is_whole_where_a_file_below_it_was_extracted_before(archive: Path) -> None:
    assert member_of(archive, "x/data/a.txt").read_text() == "a"
    for _ in range(2):
        found = member_of(archive, "x/")
        assert sorted(str(each.relative_to(found)) for each in found.rglob("*.txt")) == [
            "c.txt",
            "data/a.txt",
            "data/b.txt",
        ]
    assert member_of(archive, "x/data/b.txt").read_text() == "b"


def test_member_that_the_archive_lacks_is_named_and_leaves_nothing(archive: Path) -> None:
    with pytest.raises(WrongPackageError, match=r"no x/d\.txt"):
        member_of(archive, "x/d.txt")
    assert not (archive.parent / "members").exists()
