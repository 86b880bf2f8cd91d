"""Items brought to the size that the pipeline gives them, once, on disk: every candidate is asked the same ones again.

By the steps of the release's own pipeline, so that what is measured is what is served.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.data.shards import ZIP_ERRORS, map_npy
from shared.errors import InvalidInputError, PipelineError
from shared.runtime import audio_ops, image_ops
from shared.steps import DecodeAudio, DecodeImage, ResizeImage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from shared.pipeline import PipelineSpec

    Tensor = NDArray[Any]

_MAX_ENCODED_BYTES = 64 * 2**20
_SAVE_IMAGES = "put JPEG or PNG files into a stored .zip, each below a folder of its label"


def unpack(path: Path, spec: PipelineSpec, labels: Sequence[str], field: str, into: Path) -> tuple[Tensor, list[int]]:
    """Decode the images of a `.zip` to `(N, H, W, C) uint8`, in the order of their names; return their labels, too.

    Sounds become waves `(N, samples) float32` in the same way.

    The labels are empty where the images lie in no folders.

    Raises:
        InvalidInputError: names the image and says what would mend it.
    """
    decode = next((step for step in spec.steps if isinstance(step, DecodeImage | DecodeAudio)), None)
    if decode is None:
        remedy = "begin it with {type: decode_image} or {type: decode_audio}, or give the samples as arrays"
        raise InvalidInputError(
            field="pipeline.steps", problem="takes no images, and the data are images", remedy=remedy
        )
    resize = _resize_step(spec)
    try:
        with zipfile.ZipFile(path) as archive:
            files = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
            if not files:
                raise InvalidInputError(field=field, problem="holds no image", remedy=_SAVE_IMAGES)
            numbers = _labels([info.filename for info in files], labels, field)
            pictures = (_picture(archive, info, decode, resize, field) for info in files)
            return _saved(pictures, len(files), field, into), numbers
    except ZIP_ERRORS as exc:
        raise InvalidInputError(field=field, problem=f"is no readable .zip: {exc}", remedy=_SAVE_IMAGES) from exc


def resized(items: Tensor, spec: PipelineSpec, field: str, into: Path) -> Tensor:
    """Return `items` as the pipeline's resize leaves them; themselves where it changes nothing.

    Raises:
        InvalidInputError: they are no images.
    """
    step = _resize_step(spec)
    if step is None or items.shape[1:3] == (step.height, step.width):
        return items
    return _saved((_resized(item, step, field) for item in items), len(items), field, into)


def _resize_step(spec: PipelineSpec) -> ResizeImage | None:
    """Return the step that gives every image its size, where nothing stands between: twice resized is once resized."""
    first = next((step for step in spec.steps if not isinstance(step, DecodeImage)), None)
    return first if isinstance(first, ResizeImage) else None


def _picture(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    decode: DecodeImage | DecodeAudio,
    resize: ResizeImage | None,
    field: str,
) -> Tensor:
    where = f"{field}.{info.filename[:100]}"
    if info.file_size > _MAX_ENCODED_BYTES:
        problem = f"has {info.file_size} bytes, more than {_MAX_ENCODED_BYTES}"
        raise InvalidInputError(field=where, problem=problem, remedy="no image needs as many")
    try:
        item = _decoded(archive.read(info), decode, resize)
    except PipelineError as exc:
        raise InvalidInputError(field=where, problem=str(exc)) from exc
    return item if resize is None else _resized(item, resize, where)


def _decoded(encoded: bytes, step: DecodeImage | DecodeAudio, resize: ResizeImage | None) -> Tensor:
    if isinstance(step, DecodeAudio):
        return audio_ops.decode_audio(encoded, step)
    at_least = None if resize is None else image_ops.AtLeast(height=resize.height, width=resize.width)
    return image_ops.decode_image(encoded, step, at_least).pixels


def _resized(item: Tensor, step: ResizeImage, field: str) -> Tensor:
    try:
        return image_ops.resize_image(item, step)
    except PipelineError as exc:
        raise InvalidInputError(field=field, problem=str(exc)) from exc


def _labels(names: Sequence[str], labels: Sequence[str], field: str) -> list[int]:
    folders = [name.rpartition("/")[0] for name in names]
    if not any(folders):
        return []
    number = {label: index for index, label in enumerate(labels)}
    for name, folder in zip(names, folders, strict=True):
        if folder not in number:
            problem = f"{name[:100]} lies in no folder of a label"
            remedy = f"name the folders by `labels` in dataset.json: {', '.join(labels)[:200] or 'it has none'}"
            raise InvalidInputError(field=field, problem=problem, remedy=remedy)
    return [number[folder] for folder in folders]


def _saved(items: Iterable[Tensor], count: int, field: str, into: Path) -> Tensor:
    into.parent.mkdir(parents=True, exist_ok=True)
    saved: Tensor | None = None
    for index, item in enumerate(items):
        if saved is None:
            saved = np.lib.format.open_memmap(into, mode="w+", dtype=item.dtype, shape=(count, *item.shape))
        if item.shape != saved.shape[1:]:
            problem = f"image {index} is {item.shape}, and the first is {saved.shape[1:]}"
            raise InvalidInputError(
                field=field, problem=problem, remedy="add a resize_image step, or samples to decode_audio"
            )
        saved[index] = item
    # Opened anew, to be read only.
    del saved
    return map_npy(into, field)
