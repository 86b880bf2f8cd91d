"""The folder that one conversion works in: source, dataset, and a place for what is made, laid out by links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared import dataset
from shared.dataset import DATASET_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.conversion import ConversionRequest
    from shared.ids import Sha256

_MADE = "out"
_DATASET = "dataset"


def made(folder: Path) -> Path:
    """Return where artifacts and card are left."""
    return folder / _MADE


def lay_out(
    folder: Path, request: ConversionRequest, *, source: Path, document: bytes, content: Callable[[Sha256], Path]
) -> ConversionRequest:
    """Fill an empty folder, and return the request with the paths in it.

    `source` is the model under a name that says what it is, `document` the dataset's own; `content` says where a shard
    lies.

    Raises:
        InvalidInputError: the document is no dataset's.
    """
    made(folder).mkdir()
    spec = dataset.decode(document)
    data = folder / _DATASET
    data.mkdir()
    (data / DATASET_FILE).write_bytes(document)
    for shard in spec.shards:
        place = data / shard.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(content(shard.sha256))
    return msgspec.structs.replace(
        request, source_path=str(source), scratch_path=str(made(folder)), dataset_path=str(data)
    )
