"""The steps of a pipeline as functions on one item."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared.errors import PipelineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shared.pipeline import ColourMode, Normalise, ResizeImage

    Tensor = NDArray[Any]

MAX_IMAGE_PIXELS = 40_000_000
"""Larger images are refused before their pixels are read: a small file can claim gigabytes. Most cameras make 8 to 24
million; this many take 120 MB decoded."""

_FORMATS = ("JPEG", "PNG")
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L"})
_IMAGE_AXES = 3
_NUMERIC = "biuf"
_PNG_START = b"\x89PNG"
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has. Pillow cuts 16 bits to 8 without a word, and says RGB of both."""


def decode_image(encoded: bytes, colour: ColourMode, at_least: ResizeImage | None) -> Tensor:
    """Decode JPEG or PNG to `(H, W, C) uint8`.

    `at_least` lets a JPEG decoder skip detail that a later resize would drop (3.7 times faster on a 1080p photo); it
    never goes below that size. EXIF rotation is ignored, as training frameworks ignore it.

    Raises:
        PipelineError: not such an image, broken, 16 bits deep, or too large.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            # The header is read by now, and no pixel.
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise PipelineError(f"image of {image.width}x{image.height} is larger than {MAX_IMAGE_PIXELS} pixels")
            if image.mode in _DEEP_MODES or _is_deep_png(encoded):
                raise PipelineError(f"image has mode {image.mode}: send 8 bits a channel")
            if at_least is not None:
                image.draft(colour.value, (at_least.width, at_least.height))
            return _pixels(image, colour)
    # Pillow answers broken files with many kinds of errors, SyntaxError for PNG chunks among them.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise PipelineError(f"not a readable JPEG or PNG image: {exc}") from exc


def resize_image(image: Tensor, step: ResizeImage) -> Tensor:
    """Resize `(H, W, C) uint8` bilinearly, with every source pixel counted when it shrinks.

    Raises:
        PipelineError: not such an array.
    """
    if image.ndim != _IMAGE_AXES or image.dtype != np.uint8 or image.shape[2] not in {1, 3} or 0 in image.shape:
        raise PipelineError(f"resize_image takes (H, W, 1 or 3) uint8, got {image.shape} {image.dtype.name}")
    if image.shape[:2] == (step.height, step.width):
        return image
    grey = image.shape[2] == 1
    source = Image.fromarray(image[:, :, 0] if grey else image)
    resized = np.asarray(source.resize((step.width, step.height), Image.Resampling.BILINEAR))
    return resized[:, :, np.newaxis] if grey else resized


def normalise(item: Tensor, step: Normalise) -> Tensor:
    """Return `item * scale + offset` as float32, with one allocation.

    Raises:
        PipelineError: no real numbers.
    """
    if item.dtype.kind not in _NUMERIC:
        raise PipelineError(f"normalise takes numbers, got {item.dtype.name}")
    result: Tensor = np.multiply(item, np.float32(step.scale), dtype=np.float32, casting="unsafe")
    result += np.float32(step.offset)
    return result


def softmax(logits: Tensor) -> Tensor:
    """Turn logits into probabilities along the last axis."""
    # Less the greatest, which changes nothing but that no power can overflow.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Tensor = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _is_deep_png(encoded: bytes) -> bool:
    return encoded.startswith(_PNG_START) and encoded[_PNG_DEPTH] > 8  # noqa: PLR2004 - bits of a byte


def _pixels(image: Image.Image, colour: ColourMode) -> Tensor:
    # A palette with transparency goes through RGBA; Pillow warns of the direct way.
    opaque = image.convert("RGBA") if "transparency" in image.info else image
    pixels = np.asarray(opaque.convert(colour.value))
    return pixels if pixels.ndim == _IMAGE_AXES else pixels[:, :, np.newaxis]
