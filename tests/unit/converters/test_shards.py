from __future__ import annotations

import hashlib
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.data import shards
from shared.dataset import Shard, Split
from shared.errors import InvalidInputError
from shared.ids import Sha256

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

ITEMS = np.arange(24, dtype=np.float32).reshape(6, 4)
KEYS = {"x": "save it with numpy.savez(path, x=items)", "y": ""}


def mapped(path: Path) -> dict[str, Tensor]:
    return shards.map_npz(path, KEYS, "gate", path.parent / "unpacked")


def saved(tmp_path: Path, **arrays: Tensor) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, allow_pickle=True, **arrays)
    return path


def shard(content: bytes, *, sha256: str = "", length_bytes: int | None = None) -> Shard:
    return Shard(
        path="gate.npz",
        sha256=Sha256(sha256 or hashlib.sha256(content).hexdigest()),
        length_bytes=len(content) if length_bytes is None else length_bytes,
        split=Split.GATE,
    )


def test_shard_that_is_what_the_dataset_names_is_found(tmp_path: Path) -> None:
    (tmp_path / "gate.npz").write_bytes(b"content")
    assert shards.verified(tmp_path, shard(b"content")).read_bytes() == b"content"


def test_shard_behind_a_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"content")
    (tmp_path / "gate.npz").symlink_to(tmp_path / "blob")
    assert shards.verified(tmp_path, shard(b"content")).name == "gate.npz"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (shard(b"content", sha256="0" * 64), "has sha256"),
        (shard(b"content", length_bytes=8), "has 7 bytes"),
        (shard(b"changed"), "has sha256"),
    ],
)
def test_shard_that_is_another_file_is_refused(tmp_path: Path, named: Shard, said: str) -> None:
    (tmp_path / "gate.npz").write_bytes(b"content")
    with pytest.raises(InvalidInputError, match=said) as caught:
        shards.verified(tmp_path, named)
    assert caught.value.field == "dataset.json.gate.npz"


def test_shard_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is missing"):
        shards.verified(tmp_path, shard(b"content"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_mapped_and_not_read(tmp_path: Path, save: Any) -> None:  # noqa: ANN401 - one of numpy's two savers
    path = tmp_path / "data.npz"
    save(path, x=ITEMS, y=np.arange(6))
    arrays = mapped(path)
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    np.testing.assert_array_equal(arrays["x"], ITEMS)
    np.testing.assert_array_equal(arrays["y"], np.arange(6))


def test_array_that_may_be_absent_is_absent(tmp_path: Path) -> None:
    assert mapped(saved(tmp_path, x=ITEMS)).keys() == {"x"}


def test_array_that_must_be_there_is_asked_for_with_how_to_save(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"gate\.x: is missing .*numpy\.savez"):
        mapped(saved(tmp_path, y=ITEMS))


def test_npy_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ITEMS)
    array = shards.map_npy(tmp_path / "x.npy", "gate.x")
    assert isinstance(array, np.memmap)
    np.testing.assert_array_equal(array, ITEMS)


def test_npy_that_is_cut_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ITEMS)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-1])
    with pytest.raises(InvalidInputError, match="claims shape"):
        shards.map_npy(tmp_path / "x.npy", "gate.x")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04" + b"\0" * 60, b"\x80\x04N."])
def test_npz_of_garbage_is_refused_with_how_to_save(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"numpy\.savez"):
        mapped(path)


@pytest.mark.parametrize(
    ("items", "said"), [(np.array(["a"] * 6), "dtype <U1"), (ITEMS.astype(object), "dtype object")]
)
def test_npz_of_no_plain_numbers_is_refused(tmp_path: Path, items: Tensor, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        mapped(saved(tmp_path, x=items))


def packed(tmp_path: Path, method: int, **members: bytes) -> Path:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
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
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_attack_in_the_header_is_refused_by_field(tmp_path: Path, member: bytes, said: str, method: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        mapped(packed(tmp_path, method, x__npy=member))
    assert caught.value.field == "gate.x"
    assert said in caught.value.problem


def test_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", claiming(f"({2**30 + 1},)"))
    # The directory of the archive lies too.
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"gate\.x: (unpacks|claims)"):
        mapped(path)
    assert not (tmp_path / "unpacked").exists()


def test_array_named_without_its_ending_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"gate\.x: is missing"):
        mapped(packed(tmp_path, zipfile.ZIP_STORED, x=b"hello"))


@pytest.mark.parametrize(
    ("place", "value"), [(8, 1), (10, 99), (10, 8), (10, 14)], ids=["encrypted", "?", "zip", "lzma"]
)
def test_array_packed_in_another_way_than_it_says_is_refused(tmp_path: Path, place: int, value: int) -> None:
    path = saved(tmp_path, x=ITEMS)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + place] = value
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"gate(\.x)?: is no"):
        mapped(path)


def test_array_that_ends_behind_its_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, x=ITEMS)
    content = bytearray(path.read_bytes())
    # Where the archive says that its member begins.
    entry = content.find(b"PK\x01\x02")
    content[entry + 42 : entry + 46] = struct.pack("<I", len(content) - 40)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"gate(\.x)?: is (no|cut)"):
        mapped(path)


def test_array_of_other_byte_order_and_axis_order_is_read_as_its_numbers(tmp_path: Path) -> None:
    items = mapped(saved(tmp_path, x=np.asfortranarray(ITEMS.astype(">f8"))))["x"]
    np.testing.assert_array_equal(items, ITEMS)
