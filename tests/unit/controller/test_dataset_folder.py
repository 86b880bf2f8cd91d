"""Folders of data, and the documents that describe them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from controller import dataset_folder
from shared import dataset
from shared.dataset import DATASET_FILE, DatasetKind, DatasetSpec, Split
from shared.errors import InvalidInputError
from tests.support.datasets import opaque, spec_of, written

if TYPE_CHECKING:
    from pathlib import Path


def _describe(folder: Path) -> DatasetSpec:
    return dataset_folder.describe(folder, name="data", licence="CC0-1.0")


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_folder_read_is_its_document(tmp_path: Path) -> None:
    assert dataset_folder.read(written(tmp_path, opaque())) == spec_of(opaque())


def test_folder_described_twice_is_the_same_document(tmp_path: Path) -> None:
    folder = _files(tmp_path, "gate.npz", "search.npz", "calibration.npz")
    first = _describe(folder)
    document = (folder / DATASET_FILE).read_bytes()
    assert _describe(folder) == first == dataset_folder.read(folder)
    assert (folder / DATASET_FILE).read_bytes() == document


def test_names_say_split_array_and_part(tmp_path: Path) -> None:
    names = ("gate/x-1.npy", "gate-y-1.npy", "search-2.npz", "calibration.npz", ".hidden/junk.npz", "notes.txt")
    shards = {
        shard.path: (shard.split, shard.array, shard.part) for shard in _describe(_files(tmp_path, *names)).shards
    }
    assert shards == {
        "gate/x-1.npy": (Split.GATE, "x", 1),
        "gate-y-1.npy": (Split.GATE, "y", 1),
        "search-2.npz": (Split.SEARCH, "", 2),
        "calibration.npz": (Split.CALIBRATION, "", 0),
    }


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train.npz",), "does not say which split"),
        (("gate.npy",), "does not say which array"),
        (("notes.txt",), "holds no .npz"),
        (("gate.npz", "search.npz"), "none for calibration"),
        (("gate.npz", "search.npz", "calibration.zip"), "arrays and pictures"),
        (("gate.npz", "gate/1.png"), "beside it are pictures"),
    ],
)
def test_folder_that_cannot_be_described_is_refused(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        _describe(_files(tmp_path, *names))
    assert not (tmp_path / DATASET_FILE).exists()


def test_pictures_become_one_stored_shard_a_split_whatever_their_times(tmp_path: Path) -> None:
    names = [f"{split}/{label}/{number}.jpg" for split in Split for label in ("cat", "dog") for number in (1, 2)]
    spec = _describe(_files(tmp_path, *names))
    os.utime(tmp_path / names[0], (1, 1))
    assert _describe(tmp_path) == spec
    assert (spec.kind, spec.labels) == (DatasetKind.IMAGES, ("cat", "dog"))
    assert sorted(shard.path for shard in spec.shards) == ["calibration.zip", "gate.zip", "search.zip"]


def test_pictures_of_no_label_leave_the_document_without_labels(tmp_path: Path) -> None:
    assert _describe(_files(tmp_path, *(f"{split}/1.jpg" for split in Split))).labels == ()


def test_pictures_in_folders_of_folders_are_labelled_by_both(tmp_path: Path) -> None:
    assert _describe(_files(tmp_path, *(f"{split}/cat/big/1.jpg" for split in Split))).labels == ("cat/big",)


def test_shard_missing_or_of_another_length_is_named_with_the_command_to_type(tmp_path: Path) -> None:
    folder = written(tmp_path, opaque())
    (folder / "gate.npz").write_bytes(b"shorter")
    with pytest.raises(InvalidInputError, match=r"gate\.npz: has 7 bytes.*litefleet dataset describe"):
        dataset_folder.read(folder)
    (folder / "gate.npz").unlink()
    with pytest.raises(InvalidInputError, match=r"gate\.npz: is missing"):
        dataset_folder.read(folder)


def test_folder_without_a_document_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="litefleet dataset describe"):
        dataset_folder.read(tmp_path)


def test_attack_document_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    written(tmp_path, opaque())
    document = dataset.encode(spec_of(opaque())).replace(b'"gate.npz"', b'"../gate.npz"')
    (tmp_path / DATASET_FILE).write_bytes(document)
    with pytest.raises(InvalidInputError, match="no path beside"):
        dataset_folder.read(tmp_path)
