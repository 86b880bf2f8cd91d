"""Calibration and evaluation data: what an `.npz` must hold, checked before anything expensive starts."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from shared.runtime.pipeline import CompiledPipeline

    Tensor = NDArray[Any]

_NUMERIC = "biuf"
_MAX_BYTES = 4 * 2**30
"""Of one array, unpacked: calibration and a gate need thousands of items, not millions. Zeros pack 1,000 to 1."""
_ZIP_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile raises at files that are none, cut, encrypted, or packed in a way that it does not know."""
_HEADER_ERRORS = (ValueError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError)
"""What numpy raises at a header, which it reads as a Python literal."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""Version 3 is for names of fields, which plain numbers have none of."""
_SAVE_ITEMS = "save it with numpy.savez(path, x=items)"
_SAVE_LABELS = "save it with numpy.savez(path, x=items, y=labels)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Held-out labelled samples."""

    items: Tensor
    """`(N, …)`, raw, as after image decoding."""
    labels: NDArray[np.int64]
    """`(N,)`."""


def load_calibration(path: Path) -> Tensor:
    """Return the `(N, …)` items of a calibration file.

    Raises:
        InvalidInputError: names the array and says what would mend it.
    """
    return _items(_read(path, "calibration", {"x": _SAVE_ITEMS})["x"], "calibration.x")


def load_evaluation(path: Path) -> Evaluation:
    """Return the samples of an evaluation file.

    Raises:
        InvalidInputError: names the array and says what would mend it.
    """
    arrays = _read(path, "evaluation", {"x": _SAVE_ITEMS, "y": _SAVE_LABELS})
    items, labels = _items(arrays["x"], "evaluation.x"), arrays["y"]
    if labels.shape != (len(items),) or labels.dtype.kind not in "iu":
        raise InvalidInputError(
            field="evaluation.y",
            problem=f"is {labels.dtype.name} {labels.shape} for {len(items)} items",
            remedy=f"one whole number for each item: shape ({len(items)},)",
        )
    return Evaluation(items=items, labels=labels.astype(np.int64))


def check_labels(labels: NDArray[np.int64], classes: int) -> None:
    """Refuse labels that the model cannot answer. Raises InvalidInputError."""
    # One output is a yes or a no.
    classes = max(classes, 2)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise InvalidInputError(
            field="evaluation.y",
            problem=f"{wrong.size} labels are out of range, the first is {wrong[0]}",
            remedy=f"the model has {classes} classes: 0..{classes - 1}",
        )


def prepare(items: Tensor, pipeline: CompiledPipeline, field: str) -> list[Tensor]:
    """Return what the model is fed for each item.

    Raises:
        InvalidInputError: the items do not become the model's input.
    """
    shape, wanted = items.shape[1:], tuple(pipeline.model_input.shape[1:])
    try:
        prepared = [pipeline.prepare(item) for item in items]
    except PipelineError as exc:
        raise InvalidInputError(field=field, problem=str(exc)) from exc
    if prepared[0].shape != wanted:
        raise InvalidInputError(
            field=field,
            problem=f"items of shape {shape} become {prepared[0].shape}, and the model takes {wanted}",
            remedy="give items as they are after image decoding, or add the step that shapes them to the pipeline",
        )
    return prepared


def _read(path: Path, name: str, keys: dict[str, str]) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {key: _array(archive, key, f"{name}.{key}", remedy) for key, remedy in keys.items()}
    except _ZIP_ERRORS as exc:
        raise InvalidInputError(field=name, problem=f"is no readable .npz: {exc}", remedy=keys["x"]) from exc


def _array(archive: zipfile.ZipFile, key: str, field: str, remedy: str) -> Tensor:
    member = f"{key}.npy"
    if member not in archive.namelist():
        raise InvalidInputError(field=field, problem="is missing", remedy=remedy)
    with archive.open(member) as file:
        _check_header(file, archive.getinfo(member).file_size, field)
    with archive.open(member) as file:
        # Pickled objects would run code when read.
        array: Tensor = npy.read_array(file, allow_pickle=False)
    return array


def _check_header(file: IO[bytes], size_bytes: int, field: str) -> None:
    """Refuse what is no array of numbers before any memory is given to it: a header may claim any size."""
    try:
        shape, _, dtype = _HEADERS[npy.read_magic(file)](file)
    except (*_HEADER_ERRORS, KeyError) as exc:
        raise InvalidInputError(field=field, problem=f"is no array: {exc}", remedy="save it with numpy.savez") from exc
    if dtype.kind not in _NUMERIC:
        raise InvalidInputError(field=field, problem=f"has dtype {dtype}", remedy="store plain numbers")
    claimed, held = math.prod(shape) * dtype.itemsize, size_bytes - file.tell()
    if min(shape, default=0) < 0 or claimed > held:
        raise InvalidInputError(field=field, problem=f"claims shape {shape} of {dtype}, and holds {held} bytes")
    if claimed > _MAX_BYTES:
        problem = f"has {claimed} bytes, more than {_MAX_BYTES}"
        raise InvalidInputError(field=field, problem=problem, remedy="a sample of the items is enough")


def _items(array: Tensor, field: str) -> Tensor:
    if array.ndim == 0 or array.size == 0:
        raise InvalidInputError(field=field, problem=f"is empty: shape {array.shape}", remedy="give at least one item")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
        raise InvalidInputError(field=field, problem=f"{bad} of {len(array)} items hold NaN or infinity")
    return array
