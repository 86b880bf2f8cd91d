"""What a model's file is told to be, and how a folder becomes one file."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING

import pytest

from controller.source_files import packed, recognise, scratch_name
from shared.conversion import SourceFormat
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

ZIP, GZIP, TFLITE = b"PK\x03\x04rest", b"\x1f\x8brest", b"\x1c\x00\x00\x00TFL3rest"


@pytest.mark.parametrize(
    ("name", "content", "known"),
    [
        ("m.keras", ZIP, SourceFormat.KERAS),
        ("M.KERAS", ZIP, SourceFormat.KERAS),
        ("m.pt2", ZIP, SourceFormat.PYTORCH),
        ("m.onnx", b"\x08\x07", SourceFormat.ONNX),
        ("m.skops", ZIP, SourceFormat.SKLEARN),
        ("m.jax", b"", SourceFormat.JAX),
        ("m.tflite", TFLITE, SourceFormat.TFLITE),
        ("model", TFLITE, SourceFormat.TFLITE),
    ],
)
def test_file_is_recognised_by_name_or_first_bytes(
    tmp_path: Path, name: str, content: bytes, known: SourceFormat
) -> None:
    (tmp_path / name).write_bytes(content)
    assert recognise(tmp_path / name) is known


@pytest.mark.parametrize(
    ("members", "known"),
    [
        (["m/saved_model.pb", "m/variables/variables.index"], SourceFormat.SAVED_MODEL),
        (["model.json", "group1-shard1of1.bin"], SourceFormat.TFJS),
        (["config.json", "metadata.json", "model.weights.h5"], SourceFormat.KERAS),
    ],
)
def test_zip_is_recognised_by_its_members(tmp_path: Path, members: list[str], known: SourceFormat) -> None:
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, b"x")
    assert recognise(path) is known


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("m.h5", "save it as .keras"),
        ("m.pt", "torch.export"),
        ("m.pkl", "skops"),
        ("m.joblib", "skops"),
        ("saved_model.pb", "whole SavedModel folder"),
        ("m.bin", "--format"),
    ],
)
def test_file_of_no_known_kind_is_refused_with_what_would_mend_it(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"who knows")
    with pytest.raises(InvalidInputError, match=remedy):
        recognise(tmp_path / name)


def test_zip_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(ZIP)
    with pytest.raises(InvalidInputError, match="no readable zip"):
        recognise(tmp_path / "m.zip")


@pytest.mark.parametrize(
    ("file", "known"), [("saved_model.pb", SourceFormat.SAVED_MODEL), ("model.json", SourceFormat.TFJS)]
)
def test_folder_is_recognised_by_what_it_holds(tmp_path: Path, file: str, known: SourceFormat) -> None:
    (tmp_path / file).write_bytes(b"x")
    assert recognise(tmp_path) is known


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no saved_model\.pb and no model\.json"):
        recognise(tmp_path)


def test_folder_packed_twice_is_the_same_bytes_whatever_its_times(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "b").write_bytes(b"weights")
    (folder / "saved_model.pb").write_bytes(b"graph")
    first = packed(folder, tmp_path).read_bytes()
    os.utime(folder / "saved_model.pb", (1, 1))
    assert packed(folder, tmp_path).read_bytes() == first
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert archive.namelist() == ["saved_model.pb", "variables/b"]


def test_attack_folder_with_a_link_is_not_packed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "saved_model.pb").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInputError, match="is a link"):
        packed(folder, tmp_path)


@pytest.mark.parametrize(
    ("source_format", "content", "name"),
    [
        (SourceFormat.KERAS, ZIP, "source.keras"),
        (SourceFormat.PYTORCH, ZIP, "source.pt2"),
        (SourceFormat.SAVED_MODEL, ZIP, "source.zip"),
        (SourceFormat.TFJS, GZIP, "source.tar.gz"),
        (SourceFormat.TFLITE, TFLITE, "source.tflite"),
    ],
)
def test_source_is_named_as_frameworks_expect(
    tmp_path: Path, source_format: SourceFormat, content: bytes, name: str
) -> None:
    (tmp_path / "blob").write_bytes(content)
    assert scratch_name(source_format, tmp_path / "blob") == name
