"""A dataset at rest: a folder of shards and the `dataset.json` that describes them; written and read without numpy."""

from __future__ import annotations

import hashlib
import re
import zipfile
from typing import TYPE_CHECKING

from shared import dataset
from shared.dataset import DATASET_FILE, DatasetKind, DatasetSpec, Shard, Split
from shared.errors import InvalidInputError
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_ARRAYS = frozenset({".npz", ".npy"})
_WORD = re.compile(r"[a-z0-9]+")
_ARRAY_NAMES = frozenset({"x", "y", "slice"})
# The oldest time that a zip can hold: the same pictures give the same bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_ONE_KIND = "keep one kind, move the others"
_LAYOUT = (
    "name files by their split: gate.npz, gate-1.npz, gate/x.npy, or gate/LABEL/picture.jpg; also calibration, search"
)


def read(folder: Path) -> DatasetSpec:
    """Return what a folder's `dataset.json` says, once each shard is there with the length that it names.

    Raises:
        InvalidInputError: names the file and what would mend it.
    """
    path = folder / DATASET_FILE
    remedy = f"litefleet dataset describe {folder}"
    try:
        spec = dataset.decode(path.read_bytes())
    except OSError as exc:
        raise InvalidInputError(field=str(path), problem=str(exc.strerror), remedy=f"write it: {remedy}") from exc
    for shard in spec.shards:
        place = folder / shard.path
        if not place.is_file():
            raise InvalidInputError(field=str(place), problem="is missing", remedy=remedy)
        if place.stat().st_size != shard.length_bytes:
            problem = f"has {place.stat().st_size} bytes, {DATASET_FILE} says {shard.length_bytes}"
            raise InvalidInputError(field=str(place), problem=problem, remedy=remedy)
    return spec


def describe(
    folder: Path, *, name: str, licence: str, labels: Sequence[str] = (), slices: Sequence[str] = ()
) -> DatasetSpec:
    """Write `dataset.json` for the shards of a folder; pictures in folders are packed into shards first.

    The same files give the same document.

    Raises:
        InvalidInputError: a file's name does not say its split, or a split has none.
    """
    pictures = _pictures(folder)
    if pictures:
        labels = labels or sorted(_labels(folder, pictures))
        _check_alone(folder)
        files = [_pack(folder, split, paths) for split, paths in sorted(pictures.items())]
    else:
        files = sorted(
            path for path in folder.rglob("*") if path.suffix in _ARRAYS | {".zip"} and not _hidden(folder, path)
        )
    shards = [_shard(folder, path) for path in files]
    spec = DatasetSpec(
        name=name,
        licence=licence,
        kind=_kind(files),
        shards=tuple(shards),
        labels=tuple(labels),
        slices=tuple(slices),
    )
    dataset.check(spec)
    (folder / DATASET_FILE).write_bytes(dataset.encode(spec))
    return spec


def _hidden(folder: Path, path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _pictures(folder: Path) -> dict[Split, list[Path]]:
    """Return the pictures of `{split}/{label}/{picture}` or `{split}/{picture}` by split, in the order of names."""
    found: dict[Split, list[Path]] = {}
    for split in Split:
        pictures = sorted(path for path in (folder / split).rglob("*") if path.suffix.lower() in IMAGES)
        if pictures:
            found[split] = pictures
    return found


def _labels(folder: Path, pictures: Mapping[Split, Sequence[Path]]) -> set[str]:
    """Return the folders that pictures lie in; those that lie in their split itself have no label."""
    found = (path.parent.relative_to(folder / split).as_posix() for split, paths in pictures.items() for path in paths)
    return {label for label in found if label != "."}


def _check_alone(folder: Path) -> None:
    beside = sorted(path for path in folder.rglob("*") if path.suffix in _ARRAYS and not _hidden(folder, path))
    if beside:
        raise InvalidInputError(
            field=str(beside[0]), problem="holds arrays, and beside it are pictures", remedy=_ONE_KIND
        )


def _pack(folder: Path, split: Split, pictures: Sequence[Path]) -> Path:
    target = folder / f"{split}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for picture in pictures:
            item = zipfile.ZipInfo(picture.relative_to(folder / split).as_posix(), _NO_TIME)
            with picture.open("rb") as source, archive.open(item, "w") as sink:
                sink.write(source.read())
    return target


def _shard(folder: Path, path: Path) -> Shard:
    relative = path.relative_to(folder)
    words = _WORD.findall(relative.with_suffix("").as_posix().lower())
    split = next((one for one in Split if words and words[0] == one), None)
    if split is None:
        raise InvalidInputError(field=str(path), problem="does not say which split it is of", remedy=_LAYOUT)
    array = next((word for word in words[1:] if word in _ARRAY_NAMES), "") if path.suffix == ".npy" else ""
    if path.suffix == ".npy" and not array:
        raise InvalidInputError(field=str(path), problem="does not say which array it is", remedy="e.g. gate-x-0.npy")
    with path.open("rb") as source:
        sha256 = Sha256(hashlib.file_digest(source, "sha256").hexdigest())
    return Shard(
        path=relative.as_posix(),
        sha256=sha256,
        length_bytes=path.stat().st_size,
        split=split,
        array=array,
        part=next((int(word) for word in reversed(words) if word.isdecimal()), 0),
    )


def _kind(files: Sequence[Path]) -> DatasetKind:
    suffixes = {path.suffix for path in files}
    if not suffixes:
        raise InvalidInputError(field="DIR", problem="holds no .npz, no .npy and no pictures", remedy=_LAYOUT)
    if ".zip" in suffixes and suffixes & _ARRAYS:
        raise InvalidInputError(field="DIR", problem="holds arrays and pictures", remedy=_ONE_KIND)
    return DatasetKind.IMAGES if ".zip" in suffixes else DatasetKind.ARRAYS
