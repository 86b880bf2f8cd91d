"""dataset.json: what a Dataset holds. Its digest names the dataset, and it names every shard by its own digest.

A folder with `dataset.json` and its shards beside it is a dataset at rest; the controller keeps the document and each
shard as blobs, so that a dataset that changed a little is uploaded a little.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.ids import Sha256

DATASET_FILE = "dataset.json"


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
