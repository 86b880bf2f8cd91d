"""Decoding and the other steps on images, against Pillow and plain formulas; hostile files among them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from shared.errors import PipelineError
from shared.runtime import image_ops
from shared.steps import ChannelOrder, ColourMode, CropImage, DecodeImage, Fit, ResizeImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]


def decoded(content: bytes, colour: ColourMode, at_least: image_ops.AtLeast | None = None) -> Tensor:
    """Return the pixels of an encoded image."""
    return image_ops.decode_image(content, DecodeImage(colour=colour), at_least).pixels


def pictures(count: int, *shape: int) -> Tensor:
    return np.random.default_rng(3).integers(0, 256, (count, *shape), dtype=np.uint8)


def encoded(pixels: Tensor, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("colour", list(ColourMode))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_decode_image_of_any_mode_gives_declared_channels(mode: str, colour: ColourMode) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pictures(1, 6, 4, 3)[0]).convert(mode).save(buffer, "PNG")
    pixels = decoded(buffer.getvalue(), colour)
    assert pixels.shape == (6, 4, 1 if colour is ColourMode.GREY else 3)
    assert pixels.dtype == np.uint8


def test_decode_image_palette_with_transparency_is_read() -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(pictures(1, 6, 4)[0]).convert("P")
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    assert decoded(buffer.getvalue(), ColourMode.RGB).shape == (6, 4, 3)


def test_decode_image_jpeg_draft_stays_above_the_wanted_size_and_near_the_full_decode() -> None:
    ramp = np.tile(np.linspace(0, 255, 640, dtype=np.uint8), (480, 1))
    step = ResizeImage(height=60, width=80)
    jpeg = encoded(ramp, "JPEG")
    drafted = decoded(jpeg, ColourMode.GREY, image_ops.AtLeast(height=60, width=80))
    assert 60 <= drafted.shape[0] < 480
    full = image_ops.resize_image(decoded(jpeg, ColourMode.GREY), step)
    assert np.abs(image_ops.resize_image(drafted, step).astype(int) - full).max() <= 3


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a" + b"\0" * 50, b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff" * 9]
)
def test_decode_image_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(PipelineError, match="not a readable JPEG or PNG"):
        decoded(content, ColourMode.RGB)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_decode_image_cut_in_the_middle_is_refused(kind: str) -> None:
    whole = encoded(pictures(1, 64, 64)[0], kind)
    with pytest.raises(PipelineError):
        decoded(whole[: len(whole) // 2], ColourMode.RGB)


def test_decode_image_of_claimed_gigabytes_is_refused_before_decoding() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    claimed = start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(PipelineError, match="8000x8000 is larger than"):
        decoded(claimed, ColourMode.RGB)


def png(width: int, height: int, *, bits: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand; `kind` is 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_decode_image_of_sixteen_bits_is_refused_whatever_its_channels(kind: int, channels: int) -> None:
    content = png(2, 2, bits=16, kind=kind, rows=(b"\0" + b"\x12\x34" * 2 * channels) * 2)
    with pytest.raises(PipelineError, match="8 bits"):
        decoded(content, ColourMode.RGB)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_decode_image_with_a_bomb_in_its_notes_is_refused(name: bytes) -> None:
    bomb = chunk(name, b"a\0\0" + zlib.compress(bytes(8 * 2**20)))
    with pytest.raises(PipelineError, match="not a readable JPEG or PNG"):
        decoded(png(2, 2, bits=8, kind=0, rows=b"\0\1\1" * 2, extra=bomb), ColourMode.GREY)


def test_decode_image_of_no_width_is_refused() -> None:
    with pytest.raises(PipelineError, match="not a readable JPEG or PNG"):
        decoded(png(0, 2, bits=8, kind=0, rows=b""), ColourMode.GREY)


def test_decode_image_jpeg_of_four_inks_becomes_the_colours_it_shows() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).convert("CMYK").save(buffer, "JPEG", quality=95)
    pixels = decoded(buffer.getvalue(), ColourMode.RGB)
    assert np.abs(pixels.reshape(-1, 3).mean(axis=0) - (200, 30, 30)).max() < 8


def test_decode_image_turned_by_exif_stays_as_stored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (12, 4)).save(buffer, "JPEG", exif=exif)
    assert decoded(buffer.getvalue(), ColourMode.RGB).shape == (4, 12, 3)


def test_decode_image_of_several_pictures_takes_the_first() -> None:
    buffer = io.BytesIO()
    first, second = Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)
    first.save(buffer, "PNG", save_all=True, append_images=[second])
    assert decoded(buffer.getvalue(), ColourMode.GREY).max() == 10


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 1), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_resize_image_of_what_is_no_image_is_refused(image: Tensor) -> None:
    with pytest.raises(PipelineError, match="resize_image takes"):
        image_ops.resize_image(image, ResizeImage(height=4, width=4))


def test_resize_image_of_same_size_changes_nothing() -> None:
    image = pictures(1, 8, 8, 3)[0]
    assert image_ops.resize_image(image, ResizeImage(height=8, width=8)) is image


def test_decode_image_upright_when_it_is_asked_to() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, :60] = 255
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, quality=95)
    picture = image_ops.decode_image(
        buffer.getvalue(), DecodeImage(orient=True), image_ops.AtLeast(height=10, width=10)
    )
    # Stored lying on its side: its left half is on top of it.
    assert picture.pixels.shape[0] == 3 * picture.pixels.shape[1]
    assert picture.pixels[: len(picture.pixels) // 2].mean() > 250
    assert (picture.frame.sent_width, picture.frame.sent_height) == (40, 120)


def test_decode_image_over_the_steps_own_limit_is_refused() -> None:
    with pytest.raises(PipelineError, match="larger than 99 pixels"):
        image_ops.decode_image(encoded(pictures(1, 10, 10)[0]), DecodeImage(max_pixels=99), None)


def test_letterbox_shows_the_whole_image_between_bars_of_one_colour() -> None:
    step = ResizeImage(height=8, width=8, fit=Fit.LETTERBOX, fill=7)
    made = image_ops.resize_image(np.full((4, 8, 3), 200, np.uint8), step)
    assert made.shape == (8, 8, 3)
    assert (made[2:6] == 200).all()
    assert (made[:2] == 7).all()
    assert (made[6:] == 7).all()


def test_crop_to_a_ratio_is_pillows_fit() -> None:
    image = pictures(1, 31, 57, 3)[0]
    made = image_ops.resize_image(image, ResizeImage(height=10, width=12, fit=Fit.CROP))
    theirs = ImageOps.fit(Image.fromarray(image), (12, 10), Image.Resampling.BILINEAR)
    assert np.abs(made.astype(int) - np.asarray(theirs)).max() <= 1


def test_crop_image_takes_the_middle_or_a_box() -> None:
    image = pictures(1, 9, 12, 3)[0]
    middle = image_ops.crop_image(image, CropImage(height=3, width=4)).pixels
    np.testing.assert_array_equal(middle, image[3:6, 4:8])
    box = image_ops.crop_image(image, CropImage(box=(0.25, 0.0, 0.75, 1 / 3))).pixels
    np.testing.assert_array_equal(box, image[:3, 3:9])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
def test_crop_image_of_a_tiny_part_is_never_empty(size: tuple[int, int]) -> None:
    part = image_ops.crop_image(np.zeros((*size, 3), np.uint8), CropImage(box=(0.99, 0.99, 1.0, 1.0))).pixels
    assert min(part.shape) >= 1


def test_crop_image_larger_than_the_image_is_the_items_fault() -> None:
    with pytest.raises(PipelineError, match="too small to cut 4x3"):
        image_ops.crop_image(np.zeros((2, 9, 3), np.uint8), CropImage(height=3, width=4))


def test_colours_become_others_and_grey_as_pillow_says() -> None:
    image = pictures(1, 5, 6, 3)[0]
    np.testing.assert_array_equal(image_ops.change_colour(image, ChannelOrder.BGR), image[..., ::-1])
    assert image_ops.change_colour(image, ChannelOrder.RGB) is image
    grey = image_ops.change_colour(image, ChannelOrder.GREY)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(image).convert("L")))
    np.testing.assert_array_equal(image_ops.change_colour(grey, ChannelOrder.RGB), np.repeat(grey, 3, axis=2))
