"""Cuts one `.npz` into the shards of a dataset: `python -m converters.dataset_split FILE.npz --out DIR`.

The samples are shuffled by a seed first, class by class where there are labels, so that each split has its share of
every class. The same file, seed and shares give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.dataset import Split
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_ARRAYS = ("x", "y", "slice")
_LEAST = len(Split)
EXIT_USAGE = 2


def cut(arrays: dict[str, Tensor], *, seed: int, shares: Sequence[float]) -> dict[Split, dict[str, Tensor]]:
    """Return the samples of every split. `arrays`: `x (N, …)`, perhaps `y (N,)` and `slice (N,)`.

    Raises:
        InvalidInputError: arrays that do not belong together, or shares that are none.
    """
    if "x" not in arrays:
        raise InvalidInputError(field="x", problem="is missing", remedy="save it with numpy.savez(path, x=items)")
    count = len(arrays["x"])
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != count:
            raise InvalidInputError(field=name, problem=f"has shape {array.shape} for {count} items")
    if len(shares) != len(Split) or min(shares) <= 0 or not np.isclose(sum(shares), 1):
        raise InvalidInputError(field="shares", problem="takes three parts that make 1", remedy="e.g. 0.1,0.3,0.6")
    if count < _LEAST:
        raise InvalidInputError(field="x", problem=f"has {count} items", remedy=f"give at least {_LEAST}")
    order = _shuffled(arrays.get("y"), count, np.random.default_rng(seed))
    ends = np.cumsum([max(1, round(share * count)) for share in shares[:-1]])
    parts = np.split(order, np.minimum(ends, [count - 2, count - 1]))
    return {
        split: {name: array[np.sort(part)] for name, array in arrays.items()}
        for split, part in zip(Split, parts, strict=True)
    }


def _shuffled(labels: Tensor | None, count: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Return the indices in an order of which every stretch has its share of each class."""
    order = random.permutation(count)
    if labels is None or labels.ndim != 1:
        return order
    # Each sample's place among its own class, as a share: sorting by it deals the classes out evenly.
    places = np.empty(count)
    for label in np.unique(labels):
        own = np.flatnonzero(labels[order] == label)
        places[own] = (np.arange(len(own)) + random.random()) / len(own)
    return order[np.argsort(places, kind="stable")]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as data:
            _check_names(data.files, path)
            return {name: data[name] for name in _ARRAYS if name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as exc:
        raise InvalidInputError(field=str(path), problem=f"is no readable .npz: {exc}") from exc


def _check_names(names: Sequence[str], path: Path) -> None:
    others = sorted(set(names) - set(_ARRAYS))
    # Labels by another name would be lost without a word.
    if others and "y" not in names:
        problem = f"holds {', '.join(others)[:100]}, and no y"
        raise InvalidInputError(field=str(path), problem=problem, remedy="call labels y, and leave out what is none")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as exc:
        raise InvalidInputError(field="shares", problem=f"{text!r} are no numbers", remedy="e.g. 0.1,0.3,0.6") from exc


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut the file that is named."""
    parser = argparse.ArgumentParser(prog="python -m converters.dataset_split", description="Cut an .npz into splits.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", default="0.1,0.3,0.6", help="calibration, search, gate")
    given = parser.parse_args(arguments)
    try:
        splits = cut(_read(given.file), seed=given.seed, shares=_shares(given.shares))
        given.out.mkdir(parents=True, exist_ok=True)
        for split, arrays in splits.items():
            named: dict[str, Any] = dict(arrays)
            np.savez(given.out / f"{split}.npz", **named)
    except InvalidInputError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return EXIT_USAGE
    except OSError as exc:
        sys.stderr.write(f"error: cannot write to {given.out}: {exc.strerror}\n")
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
