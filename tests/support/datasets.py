"""Datasets for tests: their documents, and folders of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from shared import dataset
from shared.dataset import DATASET_FILE, DatasetSpec, Shard, Split
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def spec_of(shards: Mapping[str, bytes], *, name: str = "data") -> DatasetSpec:
    """Return the document of shards named `{split}….npz`."""
    return DatasetSpec(
        name=name,
        licence="CC0-1.0",
        shards=tuple(
            Shard(
                path=path,
                sha256=Sha256(hashlib.sha256(content).hexdigest()),
                length_bytes=len(content),
                split=next(split for split in Split if path.startswith(split)),
            )
            for path, content in shards.items()
        ),
    )


def opaque(word: str = "data") -> dict[str, bytes]:
    """Return shards of which only the conversion program would know that they hold nothing."""
    return {f"{split}.npz": f"{word} for {split}".encode() for split in Split}


def written(folder: Path, shards: Mapping[str, bytes]) -> Path:
    """Write a dataset folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in shards.items():
        (folder / path).write_bytes(content)
    (folder / DATASET_FILE).write_bytes(dataset.encode(spec_of(shards)))
    return folder
