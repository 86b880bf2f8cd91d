"""Which delta a device takes, of what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.delivery import delta
from agent.delivery.repository import VerifiedTarget
from agent.delivery.slots import MANIFEST, MODEL, Slots
from shared.delta import delta_path
from shared.ids import ModelName, ReleaseId, Sha256
from shared.manifest import encode
from shared.wire import TargetRef
from tests.support.deltas import digest_of
from tests.support.models import one_hot_classifier, release_manifest

if TYPE_CHECKING:
    from pathlib import Path

DIGITS, DOORS = ModelName("digits"), ModelName("doors")
ONE = one_hot_classifier()
TWO = ONE + b"\0"
WANTED = TargetRef(path="artifacts/x", length_bytes=1_000, sha256=Sha256("f" * 64))


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "releases")


def commit(slots: Slots, name: str, model: bytes, *, of: ModelName = DIGITS) -> Path:
    """Put a release on the disk, and return where its artifact is."""
    manifest = release_manifest(model, release_id=name, name=of, version_number=1, release_counter=1)
    folder = slots.stage(ReleaseId(name))
    (folder / MANIFEST).write_bytes(encode(manifest))
    (folder / MODEL).write_bytes(model)
    return slots.commit(ReleaseId(name)) / MODEL


def target(length_bytes: int) -> VerifiedTarget:
    return VerifiedTarget(length_bytes=length_bytes, sha256=Sha256("d" * 64), release_counter=1, profiles=())


def test_held_artifacts_are_those_of_the_model_alone(slots: Slots) -> None:
    first, second = commit(slots, "r1", ONE), commit(slots, "r2", TWO)
    commit(slots, "r3", ONE + b"three", of=DOORS)
    assert delta.held_artifacts(slots, DIGITS) == {digest_of(TWO): second, digest_of(ONE): first}


def test_held_artifact_that_rotted_does_not_count(slots: Slots) -> None:
    commit(slots, "r1", ONE).write_bytes(b"rot")
    assert delta.held_artifacts(slots, DIGITS) == {}


@pytest.mark.parametrize("name", [MANIFEST, MODEL])
def test_release_with_a_file_missing_or_unreadable_does_not_count(slots: Slots, name: str) -> None:
    folder = commit(slots, "r1", ONE).parent
    if name == MANIFEST:
        (folder / name).write_bytes(b"{")
    else:
        (folder / name).unlink()
    assert delta.held_artifacts(slots, DIGITS) == {}


def test_held_artifacts_are_few_and_the_newest(slots: Slots) -> None:
    models = [ONE + bytes([number]) for number in range(6)]
    for number, model in enumerate(models):
        commit(slots, f"r{number}", model)
    assert list(delta.held_artifacts(slots, DIGITS)) == [digest_of(models[number]) for number in (5, 4, 3, 2)]


def test_smallest_of_several_deltas_is_taken(tmp_path: Path) -> None:
    held = {Sha256(digit * 64): tmp_path / digit for digit in "abc"}
    files = {delta_path(Sha256(digit * 64), WANTED.sha256): target(size) for digit, size in (("a", 300), ("b", 200))}
    found = delta.smallest(held, WANTED, files)
    assert found is not None
    assert (found.old, found.ref.length_bytes) == (tmp_path / "b", 200)


def test_delta_as_large_as_the_artifact_is_not_taken(tmp_path: Path) -> None:
    held = {Sha256("a" * 64): tmp_path}
    assert delta.smallest(held, WANTED, {delta_path(Sha256("a" * 64), WANTED.sha256): target(1_000)}) is None


def test_no_delta_is_asked_for_from_an_artifact_to_itself() -> None:
    assert delta.paths([WANTED.sha256], WANTED.sha256) == []


def test_artifact_held_by_another_release_is_copied(slots: Slots, tmp_path: Path) -> None:
    held = commit(slots, "r1", ONE)
    ref = TargetRef(path="artifacts/x", length_bytes=len(ONE), sha256=digest_of(ONE))
    assert delta.copied(held, ref, tmp_path / MODEL)
    assert (tmp_path / MODEL).read_bytes() == ONE


def test_artifact_that_rots_while_it_is_copied_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "held").write_bytes(b"rot")
    ref = TargetRef(path="artifacts/x", length_bytes=len(ONE), sha256=digest_of(ONE))
    assert not delta.copied(tmp_path / "held", ref, tmp_path / MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["held"]
