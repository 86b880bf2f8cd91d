"""`.skops` files: what may pass to skops, and attacks that may not."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.loaders.skops_file import check_file
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ESTIMATOR = {"__loader__": "ObjectNode", "__module__": "sklearn.linear_model._base", "__class__": "LinearRegression"}


def npy(array: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def claiming(shape: str) -> bytes:
    """Return an array file of a few bytes that claims to be of another shape."""
    return npy(np.zeros((1, 10))).replace(b"(1, 10)", shape.encode())


def packed(path: Path, schema: object, members: Mapping[str, bytes] = {}, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("schema.json", schema if isinstance(schema, bytes) else json.dumps(schema))
    return path


def node(loader: str, module: str, name: str) -> dict[str, object]:
    return {**ESTIMATOR, "content": [{"__loader__": loader, "__module__": module, "__class__": name}]}


def test_estimator_with_its_arrays_passes(tmp_path: Path) -> None:
    schema = {**ESTIMATOR, "content": node("NdArrayNode", "numpy", "ndarray")}
    trusted = check_file(packed(tmp_path / "m", schema, {"1.npy": npy(np.arange(5.0))}))
    assert "sklearn.tree._tree.Tree" in trusted


@pytest.mark.parametrize(
    ("loader", "module", "name"),
    [
        ("ObjectNode", "os", "system"),
        ("ObjectNode", "sklearn_evil", "Estimator"),
        ("ObjectNode", "numpyevil", "ndarray"),
        ("MethodNode", "sklearn.linear_model._base", "LinearRegression"),
        ("OperatorFuncNode", "numpy", "ufunc"),
        ("ConstructorFromReduceNode", "sklearn.linear_model._base", "LinearRegression"),
        ("FunctionNode", "sklearn.utils", "_joblib"),
        ("PartialNode", "functools", "partial"),
        ("TypeNode", "builtins", "eval"),
        ("UnheardOfNode", "numpy", "ndarray"),
    ],
)
def test_attack_by_a_node_that_is_no_data_is_refused(tmp_path: Path, loader: str, module: str, name: str) -> None:
    with pytest.raises(InvalidInputError, match="it would run code"):
        check_file(packed(tmp_path / "m", node(loader, module, name)))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_attack_by_a_pickle_is_refused_with_the_remedy(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(InvalidInputError, match=r"pickle.*skops\.io\.dump"):
        check_file(path)


@pytest.mark.parametrize("magic", [b"x\x9c\x03\x00", b"\x1f\x8b\x08\x00", b"BZh9", b"\xfd7zX"])
def test_attack_by_a_packed_joblib_file_is_refused(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(magic + bytes(50))
    with pytest.raises(InvalidInputError, match="joblib"):
        check_file(path)


@pytest.mark.parametrize("name", ["model.pkl", "content/model.joblib", "code.py"])
def test_attack_by_a_member_that_is_no_array_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="which is no array"):
        check_file(packed(tmp_path / "m", ESTIMATOR, {name: b"cos\nsystem\n"}))


def test_attack_by_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    objects = npy(np.zeros(3)).replace(b"'<f8'", b"'|O' ")
    with pytest.raises(InvalidInputError, match="Python objects"):
        check_file(packed(tmp_path / "m", ESTIMATOR, {"1.npy": objects}))


@pytest.mark.parametrize("shape", ["(9, 99)", "(9999,)"])
def test_attack_by_an_array_that_claims_more_than_it_has_is_refused(tmp_path: Path, shape: str) -> None:
    with pytest.raises(InvalidInputError):
        check_file(packed(tmp_path / "m", ESTIMATOR, {"1.npy": claiming(shape)}))


def test_attack_by_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    bomb = npy(np.zeros(40 * 2**20, np.uint8))
    with pytest.raises(InvalidInputError, match="claims to unpack"):
        check_file(packed(tmp_path / "m", ESTIMATOR, {"1.npy": bomb}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"hello"])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"no \.skops file"):
        check_file(path)


@pytest.mark.parametrize("schema", [b"{", b"[" * 100_000, b"\xff\xfe"])
def test_schema_that_is_no_json_is_refused(tmp_path: Path, schema: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"no \.skops file"):
        check_file(packed(tmp_path / "m", schema))


def test_archive_without_a_schema_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m", "w") as archive:
        archive.writestr("1.npy", npy(np.zeros(2)))
    with pytest.raises(InvalidInputError, match=r"no \.skops file"):
        check_file(tmp_path / "m")
