from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters import datasets
from shared.errors import InvalidInputError
from shared.pipeline import MODEL_ONLY, Normalise, PipelineSpec, RunModel
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline
from tests.support.models import random_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

ITEMS = np.arange(24, dtype=np.float32).reshape(6, 4)


def saved(tmp_path: Path, **arrays: Tensor) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, allow_pickle=True, **arrays)
    return path


def problem_of_evaluation(path: Path) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        datasets.load_evaluation(path)
    return caught.value


def test_evaluation_of_items_and_labels_is_read(tmp_path: Path) -> None:
    evaluation = datasets.load_evaluation(saved(tmp_path, x=ITEMS, y=np.arange(6, dtype=np.uint8)))
    np.testing.assert_array_equal(evaluation.items, ITEMS)
    assert evaluation.labels.dtype == np.int64


def test_calibration_needs_no_labels(tmp_path: Path) -> None:
    assert len(datasets.load_calibration(saved(tmp_path, x=ITEMS))) == 6


@pytest.mark.parametrize(
    ("arrays", "field", "said"),
    [
        ({"y": np.zeros(6, int)}, "evaluation.x", "missing"),
        ({"x": ITEMS}, "evaluation.y", "missing"),
        ({"x": ITEMS[:0], "y": np.zeros(0, int)}, "evaluation.x", "empty"),
        ({"x": np.float32(1), "y": np.zeros(1, int)}, "evaluation.x", "empty"),
        ({"x": ITEMS * np.nan, "y": np.zeros(6, int)}, "evaluation.x", "6 of 6 items hold NaN"),
        ({"x": ITEMS, "y": np.zeros(5, int)}, "evaluation.y", "(5,) for 6 items"),
        ({"x": ITEMS, "y": np.zeros((6, 10), int)}, "evaluation.y", "(6, 10) for 6 items"),
        ({"x": ITEMS, "y": np.zeros(6)}, "evaluation.y", "float64"),
        ({"x": np.array(["a"] * 6), "y": np.zeros(6, int)}, "evaluation.x", "dtype <U1"),
        ({"x": ITEMS.astype(object), "y": np.zeros(6, int)}, "evaluation.x", "dtype object"),
    ],
)
def test_evaluation_that_cannot_be_used_is_refused_by_field(
    tmp_path: Path, arrays: dict[str, Tensor], field: str, said: str
) -> None:
    problem = problem_of_evaluation(saved(tmp_path, **arrays))
    assert problem.field == field
    assert said in problem.problem


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04" + b"\0" * 60])
def test_evaluation_of_garbage_is_refused_with_how_to_save(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert "numpy.savez" in problem_of_evaluation(path).remedy


def test_evaluation_of_a_single_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npy"
    np.save(path, ITEMS)
    assert "no readable .npz" in problem_of_evaluation(path).problem


def packed(tmp_path: Path, **members: bytes) -> Path:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def npy(header: str, content: bytes = b"", *, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + content


def claiming(shape: str, dtype: str = "<f4", content: bytes = bytes(16)) -> bytes:
    return npy(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}", content)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (claiming("(1000000000000,)"), "claims shape"),
        (claiming("(2000000000, 1125899906842624)"), "claims shape"),
        (claiming("(-1,)"), "claims shape"),
        (claiming("(-1, -4)"), "claims shape"),
        (claiming("(5,)"), "claims shape"),
        (claiming("(1,)", "|O", b"\x80\x04N."), "dtype object"),
        (claiming("(2,)", "<c8"), "dtype complex64"),
        (claiming("(2,)", "<M8[s]"), "dtype datetime64"),
        (b"hello", "is no array"),
        (b"", "is no array"),
        (npy("{'descr': '<f4',"), "is no array"),
        (npy("(" * 5000), "is no array"),
        (npy("__import__('os').abort()"), "is no array"),
        (npy("", version=b"\x09\x00"), "is no array"),
    ],
)
def test_calibration_attack_in_the_header_is_refused_by_field(tmp_path: Path, member: bytes, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        datasets.load_calibration(packed(tmp_path, x__npy=member))
    assert caught.value.field == "calibration.x"
    assert said in caught.value.problem


def test_calibration_of_more_than_memory_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", claiming(f"({2**30 + 1},)"))
    # The directory of the archive lies too.
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"calibration\.x: (has|claims)"):
        datasets.load_calibration(path)


def test_calibration_named_without_its_ending_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"calibration\.x: is missing"):
        datasets.load_calibration(packed(tmp_path, x=b"hello"))


@pytest.mark.parametrize(
    ("place", "value"), [(8, 1), (10, 99), (10, 8), (10, 14)], ids=["encrypted", "?", "zip", "lzma"]
)
def test_calibration_packed_in_another_way_than_it_says_is_refused(tmp_path: Path, place: int, value: int) -> None:
    path = saved(tmp_path, x=ITEMS)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + place] = value
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"calibration: is no readable \.npz"):
        datasets.load_calibration(path)


def test_calibration_of_other_byte_order_and_axis_order_is_read_as_its_numbers(tmp_path: Path) -> None:
    items = datasets.load_calibration(saved(tmp_path, x=np.asfortranarray(ITEMS.astype(">f8"))))
    np.testing.assert_array_equal(items, ITEMS)


def test_evaluation_with_a_pickle_inside_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"\x80\x04N.")
    assert problem_of_evaluation(path).field == "evaluation"


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label: int) -> None:
    with pytest.raises(InvalidInputError, match=r"1 labels are out of range.*0\.\.2"):
        datasets.check_labels(np.array([0, label, 2], np.int64), 3)


def test_labels_of_yes_and_no_suit_one_output() -> None:
    datasets.check_labels(np.array([0, 1], np.int64), 1)


def test_items_of_another_shape_are_refused_with_both_shapes() -> None:
    pipeline = CompiledPipeline(MODEL_ONLY, LiteRtInterpreter(random_classifier(5, 3, seed=1), threads=1))
    with pytest.raises(InvalidInputError, match=r"become \(4,\), and the model takes \(5,\)"):
        datasets.prepare(ITEMS, pipeline, "calibration.x")


def test_items_are_prepared_by_the_pipeline() -> None:
    spec = PipelineSpec(steps=(Normalise(scale=0.5), RunModel()))
    pipeline = CompiledPipeline(spec, LiteRtInterpreter(random_classifier(4, 3, seed=1), threads=1))
    np.testing.assert_array_equal(datasets.prepare(ITEMS, pipeline, "calibration.x")[1], ITEMS[1] / 2)
