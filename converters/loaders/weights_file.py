"""The weights of a `.keras` archive, an HDF5 file: what it points at, and what it claims, before anything is read.

HDF5 can keep an array in other files, which are then read from wherever they lie on this machine, and can claim any
size for one that is stored compressed. Source: HDF5 File Format Specification 3.0, IV.A.2.h (external data files).
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import h5py

from converters.loaders.members import refused

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_RATIO = 250
"""Weights pack by a tenth; what packs better by far is a claim, not weights."""
_FREE_BYTES = 32 * 2**20
_MAX_OBJECTS = 100_000
_SAVE_AGAIN = "save the model again with model.save('model.keras'), without links or compression"


def check_weights(file: IO[bytes], size_bytes: int) -> None:
    """Refuse weights that point out of the file, or claim far more than they hold. `file` must be seekable.

    Raises:
        InvalidInputError: names the array.
    """
    try:
        with h5py.File(file, "r") as content:
            claimed = sum(_claimed_bytes(name, dataset) for name, dataset in _datasets(content))
    except (OSError, RuntimeError, ValueError, KeyError) as exc:
        raise refused(f"its weights are no readable HDF5 file: {exc}", _SAVE_AGAIN) from exc
    allowed = max(_FREE_BYTES, size_bytes * _MAX_RATIO)
    if claimed > allowed:
        raise refused(f"its weights claim {claimed} bytes and hold {size_bytes}", _SAVE_AGAIN)


def _datasets(content: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield each array with its name, links looked at and not followed."""
    waiting: list[tuple[str, h5py.Group]] = [("", content)]
    count = 0
    while waiting:
        path, group = waiting.pop()
        for name in group:
            count += 1
            if count > _MAX_OBJECTS:
                raise refused(f"its weights hold more than {_MAX_OBJECTS} objects", _SAVE_AGAIN)
            place = f"{path}/{name}"
            # A hard link may lead back to a group above it; Keras makes links of no kind.
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise refused(f"its weights hold {place[:100]!r}, which is a link to elsewhere", _SAVE_AGAIN)
            child = group[name]
            if isinstance(child, h5py.Group):
                waiting.append((place, child))
            elif isinstance(child, h5py.Dataset):
                yield place, child


def _claimed_bytes(name: str, dataset: h5py.Dataset) -> int:
    if dataset.external or dataset.is_virtual:
        raise refused(f"its weights keep {name[:100]!r} in another file", _SAVE_AGAIN)
    return int(dataset.size or 0) * int(dataset.dtype.itemsize)
