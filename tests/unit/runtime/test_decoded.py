"""Images that go from the decoder to a resize without an array between: bit for bit what the steps give one by one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from shared.box_terms import BoxFormat
from shared.pipeline import PipelineSpec
from shared.runtime import image_ops
from shared.runtime.compiling import picture_op
from shared.runtime.pipeline import CompiledPipeline
from shared.steps import ColourMode, DecodeImage, DetectBoxes, Fit, ResizeImage, RunModel, TopLabels
from tests.support.answering import Answering

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

PNG_MODES = ["L", "RGB", "RGBA", "P", "1", "LA"]
JPEG_MODES = ["L", "RGB", "CMYK"]
KINDS = [*(("PNG", mode) for mode in PNG_MODES), *(("JPEG", mode) for mode in JPEG_MODES)]
SCORES = np.array([0.2, 0.7, 0.1], np.float32)
BOX = np.array([[0.5, 0.5, 0.2, 0.2, 0.9, 0.1]], np.float32)
_TURNED = 5
"""The first orientation in which width and height change places."""


@st.composite
def encoded(draw: st.DrawFn) -> bytes:
    """A small image of any mode and orientation."""
    kind, mode = draw(st.sampled_from(KINDS))
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = draw(st.integers(1, 8))
    out = io.BytesIO()
    clear = {"transparency": bytes(range(256))} if mode == "P" and draw(st.booleans()) else {}
    image.save(out, kind, exif=exif, **clear)
    return out.getvalue()


@st.composite
def resizes(draw: st.DrawFn) -> ResizeImage:
    """Any way to any small size."""
    fit = draw(st.sampled_from(Fit))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    if fit is Fit.LETTERBOX:
        return ResizeImage(height=height, width=width, fit=fit, fill=draw(st.sampled_from([0, 114])))
    return ResizeImage(height=height, width=width, fit=fit)


def step_by_step(content: bytes, decode: DecodeImage, resize: ResizeImage) -> Tensor:
    """Decode with Pillow alone into an array, and resize that."""
    image = Image.open(io.BytesIO(content))
    turned = decode.orient is True and image.getexif()[ExifTags.Base.Orientation] >= _TURNED
    image.draft(decode.colour.value, (resize.height, resize.width) if turned else (resize.width, resize.height))
    upright = ImageOps.exif_transpose(image) if decode.orient is True else image
    opaque = upright.convert("RGBA") if "transparency" in upright.info else upright
    pixels = np.asarray(opaque.convert(decode.colour.value))
    return image_ops.resize_image(pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis], resize)


@settings(max_examples=120, deadline=None)
@given(content=encoded(), resize=resizes(), colour=st.sampled_from(ColourMode), orient=st.booleans())
def test_decoded_image_resized_equals_its_array_resized_bit_for_bit(
    content: bytes, resize: ResizeImage, colour: ColourMode, *, orient: bool
) -> None:
    decode, at_least = (
        DecodeImage(colour=colour, orient=orient),
        image_ops.AtLeast(height=resize.height, width=resize.width),
    )
    straight = picture_op(resize, image_ops.open_image(content, decode, at_least))
    between = picture_op(resize, image_ops.decode_image(content, decode, at_least))
    np.testing.assert_array_equal(straight.pixels, step_by_step(content, decode, resize))
    np.testing.assert_array_equal(straight.pixels, between.pixels)
    assert straight.frame == between.frame


@settings(max_examples=40, deadline=None)
@given(content=encoded(), resize=resizes(), colour=st.sampled_from(ColourMode), orient=st.booleans())
def test_model_of_a_line_and_of_a_graph_is_fed_the_very_same_pixels(
    content: bytes, resize: ResizeImage, colour: ColourMode, *, orient: bool
) -> None:
    decode = DecodeImage(colour=colour, orient=orient)
    takes = (resize.height, resize.width, 1 if colour is ColourMode.GREY else 3)
    line, graph = (Answering(said, takes=takes, dtype="uint8") for said in (SCORES, BOX))
    scored = PipelineSpec(steps=(decode, resize, RunModel(), TopLabels(count=1)), labels=("a", "b", "c"))
    found = PipelineSpec(steps=(decode, resize, RunModel(), DetectBoxes(format=BoxFormat.YOLO)), labels=("a", "b"))
    CompiledPipeline(scored, line).from_image(content)
    CompiledPipeline(found, graph).from_image(content)
    wanted = step_by_step(content, decode, resize)[np.newaxis]
    for model in (line, graph):
        np.testing.assert_array_equal(model.fed[0][0], wanted)
