"""The samples of a conversion: read in place, each split apart, checked before anything expensive starts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from converters.data import pictures, shards
from shared.dataset import DATASET_FILE, DatasetKind, Split, decode
from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from shared.conversion import ConversionRequest
    from shared.dataset import DatasetSpec, Shard
    from shared.pipeline import PipelineSpec
    from shared.runtime.pipeline import CompiledPipeline

    Tensor = NDArray[Any]

_MAX_DOCUMENT_BYTES = 64 * 2**20
_SAVE_ITEMS = "save it with numpy.savez(path, x=items)"
_CHUNK_BYTES = 16 * 2**20
_MAX_OVERLAP = 0.1
"""Share of a split that may also be in an earlier one: real data repeats a blank image or an idle sensor, and a copied
file repeats all."""
_DIGEST_BYTES = 16
"""Of each sample; a million of them fit, and two samples never share them by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """One split. Items are as after image decoding and the pipeline's resize."""

    split: Split
    field: str
    """What errors call it."""
    parts: tuple[Tensor, ...]
    """`(Nᵢ, …)` each, mapped."""
    labels: NDArray[np.int64] | None
    """`(N,)`."""
    slices: NDArray[np.int64] | None
    """`(N,)`: index into the dataset's names of slices."""
    digest: str
    """sha256 over everything of it that may change a measurement."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def blocks(self, size: int, first: int | None = None) -> Iterator[Tensor]:
        """Yield `(≤ size, …)` items in order, of all or of the `first`; never more than one block is in memory."""
        left = len(self) if first is None else min(first, len(self))
        for part in self.parts:
            for start in range(0, min(len(part), left), size):
                yield part[start : min(start + size, left, len(part))]
            left -= min(len(part), left)

    def item(self, index: int) -> Tensor:
        """Return one item."""
        for part in self.parts:
            if index < len(part):
                return np.asarray(part[index])
            index -= len(part)
        raise IndexError(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset that a conversion may believe."""

    spec: DatasetSpec
    splits: Mapping[Split, Samples]
    """All three."""
    doubts: tuple[str, ...]
    """What was seen of the data that is no reason to refuse it."""


def open_dataset(request: ConversionRequest, scratch: Path) -> Dataset:
    """Open the dataset of a request, proved by its digests, and by its splits that none repeats another.

    Raises:
        InvalidInputError: names the shard, array or split, and says what would mend it.
    """
    folder = Path(request.dataset_path)
    spec = _document(folder / DATASET_FILE)
    _check_order(spec.labels, request.pipeline.labels)
    splits = {split: _split(spec, split, folder, request.pipeline, scratch) for split in Split}
    doubts = check_disjoint(splits)
    return Dataset(spec=spec, splits=splits, doubts=doubts)


def check_disjoint(splits: Mapping[Split, Samples]) -> tuple[str, ...]:
    """Refuse samples that are in two splits, but for few; return sentences on those, and on a gate that repeats itself.

    What is fitted to or chosen by a sample answers it better than it answers the world. Samples are the same that look
    the same to the pipeline, decoded and resized, whatever they came as.

    Raises:
        InvalidInputError: too many, with the numbers.
    """
    dtypes = {part.dtype for samples in splits.values() for part in samples.parts}
    # Numbers of one type are compared as they are, which is cheap; of several, by their value.
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float64)
    digests = {split: [_digest(item, dtype) for item in _items(samples)] for split, samples in splits.items()}
    said = []
    for earlier, later in combinations(splits, 2):
        seen, samples = set(digests[earlier]), splits[later]
        shared = sum(digest in seen for digest in digests[later])
        problem = f"{shared} of {len(samples)} items are also in the {earlier} data"
        if shared > _MAX_OVERLAP * len(samples):
            remedy = f"split the data before saving it: what the {earlier} data showed, the {later} data cannot judge"
            raise InvalidInputError(field=f"{samples.field}.x", problem=problem, remedy=remedy)
        if shared:
            said.append(f"{samples.field}: {problem}")
    judged = digests[Split.GATE]
    repeated = len(judged) - len(set(judged))
    if repeated > _MAX_OVERLAP * len(judged):
        said.append(
            f"{splits[Split.GATE].field}: {repeated} of {len(judged)} items repeat another one, and certainty is "
            "counted as if each were new: it holds only where the world repeats itself as often"
        )
    return tuple(said)


def check_labels(samples: Samples, classes: int) -> None:
    """Refuse labels that the model cannot answer. Raises InvalidInputError."""
    if samples.labels is None:
        return
    # One output is a yes or a no.
    classes = max(classes, 2)
    wrong = samples.labels[(samples.labels < 0) | (samples.labels >= classes)]
    if wrong.size:
        raise InvalidInputError(
            field=f"{samples.field}.y",
            problem=f"{wrong.size} labels are out of range, the first is {wrong[0]}",
            remedy=f"the model has {classes} classes: 0..{classes - 1}",
        )


def check_items(samples: Samples, pipeline: CompiledPipeline) -> None:
    """Refuse items that do not become the model's input, by the first of each part. Raises InvalidInputError."""
    wanted = tuple(pipeline.model_input.shape[1:])
    field = f"{samples.field}.x"
    for part in samples.parts:
        try:
            prepared = pipeline.prepare(part[0])
        except PipelineError as exc:
            raise InvalidInputError(field=field, problem=str(exc)) from exc
        if len(prepared.shape) != len(wanted) or any(
            want not in {-1, size} for size, want in zip(prepared.shape, wanted, strict=True)
        ):
            raise InvalidInputError(
                field=field,
                problem=f"items of shape {part.shape[1:]} become {prepared.shape}, and the model takes {wanted}",
                remedy="give items as they are after image decoding, or add the step that shapes them to the pipeline",
            )


def _document(path: Path) -> DatasetSpec:
    try:
        if path.stat().st_size > _MAX_DOCUMENT_BYTES:
            raise InvalidInputError(field=DATASET_FILE, problem=f"is larger than {_MAX_DOCUMENT_BYTES} bytes")
        spec = decode(path.read_bytes())
    except OSError as exc:
        remedy = "`litefleet dataset describe FOLDER` writes one"
        raise InvalidInputError(field=DATASET_FILE, problem="cannot be read", remedy=remedy) from exc
    for field, names in (("labels", spec.labels), ("slices", spec.slices)):
        if len(set(names)) != len(names):
            raise InvalidInputError(field=f"{DATASET_FILE}.{field}", problem="names one twice")
    return spec


def _check_order(labels: Sequence[str], answers: Sequence[str]) -> None:
    """Refuse classes that data and model count in another order: every label would be wrong, and none out of range."""
    place = {name: number for number, name in enumerate(answers)}
    for number, name in enumerate(labels):
        if place.get(name, number) != number:
            raise InvalidInputError(
                field=f"{DATASET_FILE}.labels",
                problem=f"{name[:50]} is class {number} of the data, and {place[name]} of the pipeline",
                remedy="name them in the order of the model's answers: litefleet dataset describe DIR --labels …",
            )


def _split(spec: DatasetSpec, split: Split, folder: Path, pipeline: PipelineSpec, scratch: Path) -> Samples:
    field = f"dataset.{split}"
    mine = [shard for shard in spec.shards if shard.split is split]
    tables = []
    for number, (first, group) in enumerate(_parts(mine)):
        unpacked = scratch / split / str(number)
        if spec.kind is DatasetKind.IMAGES:
            path = shards.verified(folder, first)
            images, labels = pictures.unpack(path, pipeline, spec.labels, field, unpacked / "images.npy")
            tables.append({"x": images} | ({"y": np.asarray(labels, np.int64)} if labels else {}))
        else:
            tables.append(_arrays(folder, group, field, unpacked))
    digest = _digest_of(mine, spec)
    samples = _samples(split, field, tables, pipeline, digest, scratch / split)
    _check_slices(samples, len(spec.slices))
    return samples


def _digest_of(mine: Sequence[Shard], spec: DatasetSpec) -> str:
    """Name the samples in their order: which arrays belong together decides it, and which parts come first."""
    parts = [sorted((shard.array, shard.sha256) for shard in group) for _, group in _parts(mine)]
    return hashlib.sha256(msgspec.json.encode((parts, spec.labels, spec.slices))).hexdigest()


def _parts(mine: Sequence[Shard]) -> list[tuple[Shard, list[Shard]]]:
    """Return the shards of a split in groups that belong together: single arrays by their part, others alone."""
    groups: dict[tuple[int, str], list[Shard]] = {}
    for shard in mine:
        groups.setdefault((shard.part, "" if shard.array else shard.path), []).append(shard)
    return [(group[0], group) for _, group in sorted(groups.items())]


def _arrays(folder: Path, group: Sequence[Shard], field: str, unpacked: Path) -> dict[str, Tensor]:
    first = group[0]
    if not first.array:
        path = shards.verified(folder, first)
        return shards.map_npz(path, {"x": _SAVE_ITEMS, "y": "", "slice": ""}, f"{field}.{first.path}", unpacked)
    arrays = {shard.array: shards.map_npy(shards.verified(folder, shard), f"{field}.{shard.array}") for shard in group}
    if len(arrays) != len(group) or "x" not in arrays or not arrays.keys() <= {"x", "y", "slice"}:
        raise InvalidInputError(
            field=field,
            problem=f"part {first.part} has the arrays {', '.join(sorted(shard.array for shard in group))}",
            remedy="one x, and at most one y and one slice, for each part",
        )
    return arrays


def _samples(  # noqa: PLR0917 - what a split is made of
    split: Split, field: str, tables: Sequence[dict[str, Tensor]], pipeline: PipelineSpec, digest: str, scratch: Path
) -> Samples:
    parts = []
    for number, table in enumerate(tables):
        _check_items(table["x"], f"{field}.x")
        parts.append(pictures.resized(table["x"], pipeline, f"{field}.x", scratch / f"resized-{number}.npy"))
    return Samples(
        split=split,
        field=field,
        parts=tuple(parts),
        labels=_numbers(tables, "y", field),
        slices=_numbers(tables, "slice", field),
        digest=digest,
    )


def _numbers(tables: Sequence[dict[str, Tensor]], key: str, field: str) -> NDArray[np.int64] | None:
    """Return the `(N,)` whole numbers of all parts together; None where no part has them."""
    having = [table for table in tables if key in table]
    if not having:
        return None
    if len(having) != len(tables):
        raise InvalidInputError(field=f"{field}.{key}", problem="is missing from some parts", remedy="all or none")
    for table in tables:
        numbers, count = table[key], len(table["x"])
        if numbers.shape != (count,) or numbers.dtype.kind not in "iu":
            raise InvalidInputError(
                field=f"{field}.{key}",
                problem=f"is {numbers.dtype.name} {numbers.shape} for {count} items",
                remedy=f"one whole number for each item: shape ({count},)",
            )
    return np.concatenate([table[key].astype(np.int64) for table in tables])


def _check_slices(samples: Samples, names: int) -> None:
    if samples.slices is None:
        return
    wrong = samples.slices[(samples.slices < 0) | (samples.slices >= names)]
    if wrong.size:
        raise InvalidInputError(
            field=f"{samples.field}.slice",
            problem=f"{wrong.size} numbers are out of range, the first is {wrong[0]}",
            remedy=f"dataset.json names {names} slices",
        )


def _check_items(items: Tensor, field: str) -> None:
    if items.ndim == 0 or items.size == 0:
        raise InvalidInputError(field=field, problem=f"is empty: shape {items.shape}", remedy="give at least one item")
    if items.dtype.kind != "f":
        return
    rows = max(1, _CHUNK_BYTES // max(items[0].nbytes, 1))
    chunks = (items[start : start + rows] for start in range(0, len(items), rows))
    bad = sum(int((~np.isfinite(chunk)).reshape(len(chunk), -1).any(axis=1).sum()) for chunk in chunks)
    if bad:
        raise InvalidInputError(field=field, problem=f"{bad} of {len(items)} items hold NaN or infinity")


def _items(samples: Samples) -> Iterator[Tensor]:
    for part in samples.parts:
        yield from part


def _digest(item: Tensor, dtype: np.dtype[Any]) -> bytes:
    numbers = np.ascontiguousarray(item, dtype=dtype)
    return hashlib.blake2b(numbers.tobytes(), digest_size=_DIGEST_BYTES).digest()
