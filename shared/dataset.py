"""dataset.json: what a Dataset holds. Its digest names the dataset, and it names every shard by its own digest.

A folder with `dataset.json` and its shards beside it is a dataset at rest; the controller keeps the document and each
shard as blobs, so that a dataset that changed a little is uploaded a little.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import PurePosixPath

import msgspec

from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.ids import Sha256

DATASET_FILE = "dataset.json"
MAX_SHARDS = 1000
"""Of one dataset: its document is one small request, and a folder of links for every conversion."""
_MAX_NAME = 100
_MAX_PATH = 200
_DIGITS = 64


class Split(StrEnum):
    """What samples are for. No sample may be in two of them."""

    CALIBRATION = "calibration"
    """Ranges of activations are fitted to these; labels are not looked at."""
    SEARCH = "search"
    """Candidates are compared on these."""
    GATE = "gate"
    """What was chosen is judged on these, once."""


class DatasetKind(StrEnum):
    """What a shard is."""

    ARRAYS = "arrays"
    """`.npz` (stored or compressed) with `x (N, …)`, or `.npy` (memory-mapped) that is one of those arrays.

    `x`: raw items, as they are after image decoding, before the pipeline's resize. `y (N,)`: labels, whole numbers, may
    be absent. `slice (N,)`: index into `DatasetSpec.slices`, may be absent.
    """
    IMAGES = "images"
    """`.zip` (stored) of encoded images named `{label}/{file}`, or `{file}` where there are no labels."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a dataset."""

    path: str
    """Relative to `dataset.json`; no `..`."""
    sha256: Sha256
    length_bytes: int
    split: Split
    array: str = ""
    """Of a `.npy`: which array it is (x, y or slice); shards of one split with the same `part` belong together."""
    part: int = 0


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `dataset.json`."""

    schema_version: int = 1
    name: str
    licence: str
    """SPDX identifier, or `proprietary`: whoever releases a model must be able to say what judged it."""
    kind: DatasetKind = DatasetKind.ARRAYS
    shards: tuple[Shard, ...]
    labels: tuple[str, ...] = ()
    """`labels[k]` names class k; with images also the folder names. Empty: numbers are their own names."""
    slices: tuple[str, ...] = ()
    """Names of groups of samples that each must keep their accuracy, e.g. `night`, `camera-7`."""


def encode(spec: DatasetSpec) -> bytes:
    """Return the canonical bytes: keys sorted, so that the same dataset always has the same digest."""
    return msgspec.json.encode(spec, order="sorted")


def digest(spec: DatasetSpec) -> Sha256:
    """Return what names the dataset: the sha256 of its canonical bytes."""
    return Sha256(hashlib.sha256(encode(spec)).hexdigest())


def decode(data: bytes) -> DatasetSpec:
    """Read and check a `dataset.json`. Raises InvalidInputError."""
    try:
        spec = msgspec.json.decode(data, type=DatasetSpec)
    except MALFORMED as exc:
        raise InvalidInputError(field=DATASET_FILE, problem=str(exc)) from exc
    check(spec)
    return spec


def check(spec: DatasetSpec) -> None:
    """Refuse a document that names no dataset; what the shards hold is for whoever opens them.

    Raises:
        InvalidInputError: names the member and what would mend it.
    """
    for field, text in (("name", spec.name), ("licence", spec.licence)):
        if not text.strip() or len(text) > _MAX_NAME or not text.isprintable():
            problem = f"takes 1 to {_MAX_NAME} printable characters"
            raise InvalidInputError(field=field, problem=problem, remedy="licence: an SPDX identifier or proprietary")
    if not 1 <= len(spec.shards) <= MAX_SHARDS:
        raise InvalidInputError(field="shards", problem=f"{len(spec.shards)} of them, 1 to {MAX_SHARDS} are taken")
    for index, shard in enumerate(spec.shards):
        _check_shard(f"shards[{index}]", shard)
    named = [PurePosixPath(shard.path) for shard in spec.shards]
    for index, shard in enumerate(spec.shards):
        # A file that is the folder of another is as impossible as one that is there twice.
        if named.count(named[index]) > 1 or set(named[index].parents) & set(named):
            raise InvalidInputError(field=f"shards[{index}].path", problem=f"{shard.path} is taken by another shard")
    missing = [split for split in Split if all(shard.split is not split for shard in spec.shards)]
    if missing:
        raise InvalidInputError(
            field="shards",
            problem=f"none for {', '.join(missing)}",
            remedy="calibration, search and gate need samples of their own",
        )


def _check_shard(field: str, shard: Shard) -> None:
    path = PurePosixPath(shard.path)
    plain = shard.path == str(path) and path.parts and not path.is_absolute() and ".." not in path.parts
    # ASCII, so that no file system writes the name in another way.
    known = shard.path.isascii() and shard.path.isprintable() and "\\" not in shard.path
    if not (plain and known) or len(shard.path) > _MAX_PATH or path.name == DATASET_FILE:
        problem = f"{shard.path[:80]!r} is no path beside {DATASET_FILE}"
        raise InvalidInputError(field=f"{field}.path", problem=problem, remedy="e.g. gate.npz")
    if len(shard.sha256) != _DIGITS or not set(shard.sha256) <= set("0123456789abcdef"):
        raise InvalidInputError(field=f"{field}.sha256", problem="no sha256 in lower-case hex")
    if shard.length_bytes < 1:
        raise InvalidInputError(field=f"{field}.length_bytes", problem=f"{shard.length_bytes}: a shard is not empty")
