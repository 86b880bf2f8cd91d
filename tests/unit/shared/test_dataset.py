"""What a dataset.json may say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared import dataset
from shared.dataset import DatasetSpec, Shard, Split
from shared.errors import InvalidInputError
from shared.ids import Sha256


def _shard(path: str, split: Split = Split.GATE, **changed: object) -> Shard:
    shard = Shard(path=path, sha256=Sha256("0" * 64), length_bytes=1, split=split)
    return msgspec.structs.replace(shard, **changed)


def _spec(*more: Shard, name: str = "digits", licence: str = "CC-BY-4.0") -> DatasetSpec:
    shards = tuple(_shard(f"{split}.npz", split) for split in Split)
    return DatasetSpec(name=name, licence=licence, shards=(*shards, *more))


def test_dataset_written_and_read_is_the_same_and_keeps_its_digest() -> None:
    spec = _spec(_shard("more/gate-1.npz"))
    assert dataset.decode(dataset.encode(spec)) == spec
    assert dataset.digest(spec) == dataset.digest(dataset.decode(dataset.encode(spec)))


def test_dataset_with_another_shard_has_another_digest() -> None:
    assert dataset.digest(_spec()) != dataset.digest(_spec(_shard("gate-1.npz")))


@pytest.mark.parametrize(
    "path", ["../a", "/a", "a/../b", "", ".", "a//b", "./a", "a/", "dataset.json", "a\\b", "é", "a\nb", "x" * 201]
)
def test_attack_shard_path_that_leaves_the_folder_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError, match="no path beside"):
        dataset.check(_spec(_shard(path)))


@pytest.mark.parametrize("path", ["gate.npz", "gate.npz/a"])
def test_shard_whose_path_another_has_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError, match="taken by another"):
        dataset.check(_spec(_shard(path)))


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"sha256": "0" * 63}, "sha256"), ({"sha256": "G" * 64}, "sha256"), ({"length_bytes": 0}, "length_bytes")],
)
def test_shard_that_names_no_file_is_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        dataset.check(_spec(_shard("a.npz", **changed)))


@pytest.mark.parametrize(("name", "licence"), [("", "MIT"), ("digits", " "), ("x" * 101, "MIT"), ("a\nb", "MIT")])
def test_dataset_without_name_or_licence_is_refused(name: str, licence: str) -> None:
    with pytest.raises(InvalidInputError, match="printable"):
        dataset.check(_spec(name=name, licence=licence))


def test_dataset_without_a_split_is_refused_and_names_it() -> None:
    with pytest.raises(InvalidInputError, match="none for calibration, search"):
        dataset.check(DatasetSpec(name="a", licence="MIT", shards=(_shard("gate.npz"),)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 5000, b'{"name": "\xff"}', b'{"shards": []}'])
def test_document_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        dataset.decode(data)
