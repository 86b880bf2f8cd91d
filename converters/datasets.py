"""Calibration and evaluation data: what an `.npz` must hold, checked before anything expensive starts."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from shared.runtime.pipeline import CompiledPipeline

    Tensor = NDArray[Any]

_NUMERIC = "biuf"
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
        # Pickled objects would run code when read.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InvalidInputError(field=name, problem="is a single array, not an .npz", remedy=keys["x"])
            for key, remedy in keys.items():
                if key not in archive.files:
                    raise InvalidInputError(field=f"{name}.{key}", problem="is missing", remedy=remedy)
            return {key: _array(archive, name, key) for key in keys}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise InvalidInputError(field=name, problem=f"is no readable .npz: {exc}", remedy=keys["x"]) from exc


def _array(archive: np.lib.npyio.NpzFile, name: str, key: str) -> Tensor:
    try:
        array: Tensor = archive[key]
    except ValueError as exc:
        raise InvalidInputError(
            field=f"{name}.{key}", problem=f"cannot be read: {exc}", remedy="store plain numbers, not Python objects"
        ) from exc
    if array.dtype.kind not in _NUMERIC:
        raise InvalidInputError(field=f"{name}.{key}", problem=f"has dtype {array.dtype}", remedy="store numbers")
    return array


def _items(array: Tensor, field: str) -> Tensor:
    if array.ndim == 0 or array.size == 0:
        raise InvalidInputError(field=field, problem=f"is empty: shape {array.shape}", remedy="give at least one item")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
        raise InvalidInputError(field=field, problem=f"{bad} of {len(array)} items hold NaN or infinity")
    return array
