"""The steps that work on images, as functions on one of them: `(H, W, C) uint8`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from shared.errors import PipelineError
from shared.runtime.frames import Decoded, Frame, Picture
from shared.step_rules import MAX_IMAGE_PIXELS
from shared.steps import ChannelOrder, ColourMode, Fit, ResizeImage, given

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shared.steps import CropImage, DecodeImage

    Tensor = NDArray[Any]
    Pixels = Tensor | Image.Image

_FORMATS = ("JPEG", "PNG")
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L"})
_IMAGE_AXES = 3
_COLOURS = 3
_PNG_START = b"\x89PNG"
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has. Pillow cuts 16 bits to 8 without a word, and says RGB of both."""
_TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations in which height and width change places. Source: EXIF 2.3, 4.6.4 A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLeast:
    """A size below which a decoder may not go."""

    height: int
    width: int


def decode_image(encoded: bytes, step: DecodeImage, at_least: AtLeast | None) -> Picture:
    """Decode as `open_image` does, into an array. Raises PipelineError."""
    decoded = open_image(encoded, step, at_least)
    return Picture(pixels=_array(decoded.image), frame=decoded.frame)


def open_image(encoded: bytes, step: DecodeImage, at_least: AtLeast | None) -> Decoded:
    """Decode JPEG or PNG.

    `at_least` lets a JPEG decoder skip detail that a later resize would drop (3.7 times faster on a 1080p photo); it
    never goes below that size. EXIF rotation is ignored unless the step says otherwise, as training frameworks ignore
    it.

    Raises:
        PipelineError: not such an image, broken, 16 bits deep, or too large.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            # The header is read by now, and no pixel.
            most = given(step.max_pixels, MAX_IMAGE_PIXELS)
            if image.width * image.height > most:
                raise PipelineError(f"image of {image.width}x{image.height} is larger than {most} pixels")
            if image.mode in _DEEP_MODES or _is_deep_png(encoded):
                raise PipelineError(f"image has mode {image.mode}: send 8 bits a channel")
            orient = given(step.orient, False)
            turned = orient and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            width, height = (image.height, image.width) if turned else (image.width, image.height)
            if at_least is not None:
                wanted = (at_least.height, at_least.width) if turned else (at_least.width, at_least.height)
                image.draft(step.colour.value, wanted)
            decoded = _coloured(ImageOps.exif_transpose(image) if orient else image, step.colour)
    except UnidentifiedImageError as exc:
        # Pillow's own words name an object in memory.
        raise PipelineError("not a readable JPEG or PNG image: it begins like neither") from exc
    # Pillow answers broken files with many kinds of errors, SyntaxError for PNG chunks among them.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise PipelineError(f"not a readable JPEG or PNG image: {exc}") from exc
    return Decoded(image=decoded, frame=Frame.of(width, height).resized(*decoded.size))


def resize_image(image: Pixels, step: ResizeImage) -> Tensor:
    """Resize bilinearly, with every source pixel counted when it shrinks; an array or what was decoded, to the same.

    Raises:
        PipelineError: not such an array.
    """
    if isinstance(image, Image.Image):
        width, height = image.size
    else:
        check_image(image, "resize_image")
        height, width = image.shape[:2]
    fit = given(step.fit, Fit.STRETCH)
    if (height, width) == (step.height, step.width):
        return _array(image) if isinstance(image, Image.Image) else image
    if fit is Fit.STRETCH or height * step.width == width * step.height:
        return _resample(image, step.width, step.height, (0, 0, width, height))
    if fit is Fit.CROP:
        return _resample(image, step.width, step.height, _middle(width, height, step))
    across, down, left, top = _letterbox(width, height, step)
    resized = _resample(image, across, down, (0, 0, width, height))
    result = np.full((step.height, step.width, resized.shape[2]), given(step.fill, 0), np.uint8)
    result[top : top + down, left : left + across] = resized
    return result


def resized_frame(frame: Frame, step: ResizeImage) -> Frame:
    """Return where an image lies after `resize_image`."""
    fit, width, height = given(step.fit, Fit.STRETCH), int(frame.width), int(frame.height)
    if fit is Fit.STRETCH or height * step.width == width * step.height:
        return frame.resized(step.width, step.height)
    if fit is Fit.CROP:
        left, top, right, bottom = _middle(width, height, step)
        return frame.cropped(left, top, right - left, bottom - top).resized(step.width, step.height)
    across, down, left_bar, top_bar = _letterbox(width, height, step)
    return frame.resized(across, down).cropped(-left_bar, -top_bar, step.width, step.height)


def crop_image(image: Tensor, step: CropImage) -> Picture:
    """Cut out a part; its frame is relative to the image it is of.

    Raises:
        PipelineError: not such an array, or smaller than the part.
    """
    check_image(image, "crop_image")
    rows, columns = image.shape[:2]
    box = given(step.box, None)
    if box is None:
        height, width = given(step.height, 1), given(step.width, 1)
        if height > rows or width > columns:
            raise PipelineError(f"image of {columns}x{rows} is too small to cut {width}x{height} out of it")
        left, top = (columns - width) // 2, (rows - height) // 2
    else:
        left, top = int(box[0] * columns), int(box[1] * rows)
        # A part of a small image is one pixel at least.
        width, height = max(1, round(box[2] * columns) - left), max(1, round(box[3] * rows) - top)
    part = image[top : top + height, left : left + width]
    return Picture(pixels=part, frame=Frame.of(columns, rows).cropped(left, top, part.shape[1], part.shape[0]))


def change_colour(image: Tensor, to: ChannelOrder) -> Tensor:
    """Return a grey or RGB image with other channels; grey by ITU-R 601, as in Pillow. Raises PipelineError."""
    check_image(image, "colour")
    grey = image.shape[2] == 1
    if to is ChannelOrder.GREY:
        return image if grey else np.asarray(Image.fromarray(image).convert(ColourMode.GREY.value))[:, :, np.newaxis]
    if grey:
        return np.repeat(image, _COLOURS, axis=2)
    return image[:, :, ::-1] if to is ChannelOrder.BGR else image


def check_image(image: Tensor, step: str) -> None:
    """Refuse what is no image. Raises PipelineError."""
    if image.ndim != _IMAGE_AXES or image.dtype != np.uint8 or image.shape[2] not in {1, _COLOURS} or 0 in image.shape:
        raise PipelineError(f"{step} takes (H, W, 1 or 3) uint8, got {image.shape} {image.dtype.name}")


def _resample(image: Pixels, width: int, height: int, box: tuple[float, float, float, float]) -> Tensor:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return _array(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def _middle(width: int, height: int, step: ResizeImage) -> tuple[float, float, float, float]:
    """Return the largest part of the wanted ratio, in the middle: left, top, right, bottom."""
    across = min(width, height * step.width / step.height)
    down = min(height, width * step.height / step.width)
    left, top = (width - across) / 2, (height - down) / 2
    # Not beyond the edge by the last bit of a division.
    return left, top, min(left + across, width), min(top + down, height)


def _letterbox(width: int, height: int, step: ResizeImage) -> tuple[int, int, int, int]:
    """Return width and height of the whole image within the wanted size, and of the bars left of and above it."""
    ratio = min(step.width / width, step.height / height)
    across = min(max(round(width * ratio), 1), step.width)
    down = min(max(round(height * ratio), 1), step.height)
    return across, down, (step.width - across) // 2, (step.height - down) // 2


def _is_deep_png(encoded: bytes) -> bool:
    return encoded.startswith(_PNG_START) and encoded[_PNG_DEPTH] > 8  # noqa: PLR2004 - bits of a byte


def _coloured(image: Image.Image, colour: ColourMode) -> Image.Image:
    # A palette with transparency goes through RGBA; Pillow warns of the direct way.
    opaque = image.convert("RGBA") if "transparency" in image.info else image
    # Broken pixels are told here. Only loaded it is known to have the right colours: converting would copy it.
    opaque.load()
    return opaque if opaque.mode == colour.value else opaque.convert(colour.value)


def _array(image: Image.Image) -> Tensor:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == _IMAGE_AXES else pixels[:, :, np.newaxis]
