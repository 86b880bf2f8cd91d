"""Release folders: whole, or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.delivery.slots import MANIFEST, MODEL, Slots
from shared.errors import InvalidIdError, NotFoundError
from shared.ids import ReleaseId
from shared.manifest import digest

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = ReleaseId("0190a000-0000-7000-8000-00000000000a"), ReleaseId("0190a000-0000-7000-8000-00000000000b")


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "releases")


def commit(slots: Slots, release: ReleaseId, model: bytes = b"model") -> Path:
    staged = slots.stage(release)
    (staged / MANIFEST).write_bytes(b"{}")
    (staged / MODEL).write_bytes(model)
    return slots.commit(release)


def test_release_staged_is_not_listed_until_committed(slots: Slots) -> None:
    slots.stage(ONE)
    assert slots.list() == ()
    folder = commit(slots, ONE)
    assert slots.list() == (ONE,)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, MODEL]


def test_folder_that_is_no_release_is_left_alone(slots: Slots) -> None:
    folder = commit(slots, ONE)
    (folder.parent / "lost+found").mkdir()
    assert slots.list() == (ONE,)
    assert slots.sweep(()) == ()
    assert (folder.parent / "lost+found").is_dir()


def test_release_half_staged_is_not_committed(slots: Slots) -> None:
    (slots.stage(ONE) / MANIFEST).write_bytes(b"{}")
    with pytest.raises(NotFoundError, match=MODEL):
        slots.commit(ONE)
    assert slots.list() == ()


def test_release_staged_again_finds_what_came(slots: Slots) -> None:
    (slots.stage(ONE) / "model.tflite.part").write_bytes(b"half")
    assert (slots.stage(ONE) / "model.tflite.part").read_bytes() == b"half"


def test_release_committed_over_a_rotten_one_replaces_it(slots: Slots, tmp_path: Path) -> None:
    commit(slots, ONE, b"rotten")
    commit(slots, ONE, b"model")
    assert slots.verify(ONE, digest(b"{}"), digest(b"model")) == ""
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [ONE]


def test_release_verified_names_what_is_wrong(slots: Slots) -> None:
    manifest, model = digest(b"{}"), digest(b"model")
    assert slots.verify(ONE, manifest, model) == f"missing: {MANIFEST}"
    folder = commit(slots, ONE)
    assert slots.verify(ONE, manifest, model) == ""
    (folder / MODEL).write_bytes(b"modem")
    assert slots.verify(ONE, manifest, model).startswith(f"digest_mismatch: {MODEL} is {digest(b'modem')}")
    (folder / MODEL).unlink()
    assert slots.verify(ONE, manifest, model) == f"missing: {MODEL}"
    (folder / MODEL).mkdir()
    assert slots.verify(ONE, manifest, model).startswith(f"unreadable: {MODEL}")


def test_release_removed_is_gone_and_may_be_removed_again(slots: Slots, tmp_path: Path) -> None:
    commit(slots, ONE)
    slots.stage(ONE)
    commit(slots, TWO)
    slots.remove(ONE)
    slots.remove(ONE)
    assert slots.list() == (TWO,)
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [TWO]


def test_sweep_removes_what_a_cut_left_and_keeps_what_is_wanted(slots: Slots, tmp_path: Path) -> None:
    commit(slots, ONE)
    slots.stage(ONE)
    slots.stage(TWO)
    (tmp_path / "releases" / f".trash-{ONE}" / "deep").mkdir(parents=True)
    assert slots.sweep({TWO}) == (f".staged-{ONE}", f".trash-{ONE}")
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == [f".staged-{TWO}", ONE]


def test_slots_without_a_folder_are_empty(slots: Slots) -> None:
    assert slots.list() == ()
    assert slots.sweep(()) == ()
    slots.remove(ONE)


@pytest.mark.parametrize("name", ["..", "a/b", "../x", "", ".hidden", "a\x00b", "/etc"])
def test_release_named_to_leave_the_folder_is_refused(slots: Slots, name: str) -> None:
    for call in (slots.path, slots.stage, slots.remove):
        with pytest.raises(InvalidIdError):
            call(ReleaseId(name))
