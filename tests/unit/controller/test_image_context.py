"""What an image's folder copies, and what stands in its Dockerfile."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from controller.image_context import (
    DOCKERFILE,
    based_on,
    check_source,
    check_target,
    copied,
    default_source,
    write_source,
    written_whole,
)
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """\
# FROM nowhere
FROM python:3 AS build
COPY locks/a.txt locks/b.txt to/
COPY --chmod=0644 \\
     settings.toml to/
COPY agent/ agent

FROM python:3
COPY --from=build /opt/x /opt/x
COPY health.py /opt/health.py
CMD ["run"]
"""


def test_copied_names_what_comes_out_of_the_context_once() -> None:
    assert copied(RECIPE) == ("locks/a.txt", "locks/b.txt", "settings.toml", "agent", "health.py")


def test_last_stage_gets_a_name_to_begin_from() -> None:
    built = based_on(RECIPE)
    assert built.count("FROM python:3 AS agent\n") == 1
    assert built.replace(" AS agent", "") == RECIPE


def test_stage_that_has_a_name_gets_ours() -> None:
    assert "FROM python:3 AS agent\n" in based_on("FROM python:3 AS final\nCMD []\n")


def test_everything_that_our_own_dockerfile_copies_is_there() -> None:
    source = default_source()
    names = copied((source / DOCKERFILE).read_text(encoding="utf-8"))
    assert {"agent", "shared", "pyproject.toml"} <= set(names)
    check_source(source)


def test_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    check_target(tmp_path)
    check_target(tmp_path / "none")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InvalidInputError, match="is not empty"):
        check_target(tmp_path)


def test_file_that_cannot_be_copied_is_told_with_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "agent").mkdir(parents=True)
    (source / DOCKERFILE).write_text("FROM python:3\nCOPY agent/ agent\n")
    (source / "agent" / "gone.py").symlink_to("nowhere.py")
    with pytest.raises(InvalidInputError, match=r"gone\.py: cannot be copied: .*No such file"):
        write_source(source, tmp_path / "image")


def test_source_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="name a checkout of litefleet"):
        check_source(tmp_path)


@pytest.mark.parametrize("is_there", [False, True])
def test_folder_is_written_whole(tmp_path: Path, is_there: bool) -> None:
    target = tmp_path / "below" / "target"
    if is_there:
        target.mkdir(parents=True)
    with written_whole(target) as folder:
        (folder / "exported").mkdir()
        (folder / "exported" / "model").write_bytes(b"model")
        (folder / "Dockerfile").touch()
        assert not (target / "Dockerfile").exists()
    assert (target / "exported" / "model").read_bytes() == b"model"
    assert sorted(each.name for each in target.iterdir()) == ["Dockerfile", "exported"]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("is_there", [False, True])
def test_folder_of_which_writing_fails_is_left_as_it_was(tmp_path: Path, is_there: bool) -> None:
    target = tmp_path / "target"
    if is_there:
        target.mkdir()
    with pytest.raises(OSError, match="No space"):
        _fill(target)
    assert target.exists() is is_there
    assert [each for each in tmp_path.rglob("*") if each != target] == []


def _fill(target: Path) -> None:
    with written_whole(target) as folder:
        (folder / "Dockerfile").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
