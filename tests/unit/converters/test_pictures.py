"""Encoded items of a dataset, brought to what the pipeline's first steps make of them."""

from __future__ import annotations

import io
import wave
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from converters.data import pictures
from shared.errors import InvalidInputError
from shared.pipeline import PipelineSpec
from shared.steps import CropImage, DecodeAudio, DecodeImage, FrameAudio, ResizeImage, RunModel

if TYPE_CHECKING:
    from pathlib import Path


def recording(samples: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.full(samples, 16_384, "<i2").tobytes())
    return out.getvalue()


def picture(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(out, "PNG")
    return out.getvalue()


def zipped(folder: Path, *contents: bytes) -> Path:
    path = folder / "items.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{'ab'[number % 2]}/{number}", content)
    return path


def test_sounds_become_waves_of_the_length_that_the_pipeline_says(tmp_path: Path) -> None:
    spec = PipelineSpec(
        steps=(DecodeAudio(sample_rate_hz=8000, samples=100), FrameAudio(length=10, hop=10), RunModel())
    )
    path = zipped(tmp_path, recording(80), recording(300))
    items, labels = pictures.unpack(path, spec, ("a", "b"), "test.x", tmp_path / "out" / "x.npy")
    assert (items.shape, labels) == ((2, 100), [0, 1])
    assert items[0].tolist() == [0.5] * 80 + [0.0] * 20


def test_sounds_of_several_lengths_are_refused_with_what_would_mend_it(tmp_path: Path) -> None:
    spec = PipelineSpec(steps=(DecodeAudio(sample_rate_hz=8000), RunModel()))
    with pytest.raises(InvalidInputError, match="samples to decode_audio"):
        pictures.unpack(zipped(tmp_path, recording(80), recording(90)), spec, ("a", "b"), "test.x", tmp_path / "x.npy")


def test_images_that_are_cropped_first_are_not_resized_before(tmp_path: Path) -> None:
    steps = (DecodeImage(), CropImage(height=4, width=4), ResizeImage(height=2, width=2), RunModel())
    path = zipped(tmp_path, picture(9, 7), picture(9, 7))
    items, _ = pictures.unpack(path, PipelineSpec(steps=steps), ("a", "b"), "test.x", tmp_path / "x.npy")
    assert items.shape == (2, 7, 9, 3)
