"""ONNX models through the worker of their environment, and those that it must refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from converters.environments import Environment
from converters.frontends.frontend import FrontendRequest
from converters.frontends.process import Worker
from shared.conversion import SourceFormat
from tests.support.packages import package_file
from tests.support.workers import environment, run_maker

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from converters.frontends.frontend import FloatModel

pytestmark = pytest.mark.timeout(900)
REFUSED = {
    "outside": "InvalidInputError: source: keeps 'w' outside of itself, in '/etc/passwd', which is not read",
    "outside_above": "InvalidInputError: source: keeps 'w' outside of itself, in '../../../etc/hostname'",
    "outside_in_a_branch": "InvalidInputError: source: keeps 'w' outside of itself, in '/etc/passwd'",
    "branching": "UnsupportedOperatorError: no way to TensorFlow Lite for If",
    "trees": "UnsupportedOperatorError: no device's runtime has the operators Scaler of a scikit-learn export: "
    "give the pipeline itself, as .skops",
    "claiming": "InvalidInputError: source: claims 2500000000 numbers for 'w', and does not hold them",
    "custom": "UnsupportedOperatorError: custom operators: com.example.Wave",
    "training": "InvalidInputError: source: trains in Dropout",
    "random": "UnsupportedOperatorError: operators that draw random numbers: RandomNormalLike",
    "determinant": "UnsupportedOperatorError: no way to TensorFlow Lite for Det",
    "old": "InvalidInputError: source: is of opset 5 (export it with an opset from 7",
    "open_shape": "InvalidInputError: source: leaves the shape of 'x' open",
    "cut": "InvalidInputError: source: is no ONNX model",
    "pickle": "InvalidInputError: source: is no ONNX model",
    "empty": "InvalidInputError: source: is no ONNX model",
}
RAPID_OCR = ("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")
BASIC_PITCH = ("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    run_maker(Environment.ONNX, "onnx_models", str(folder))
    return folder


def convert(path: Path, scratch: Path, batch: int | None, items: NDArray[np.generic]) -> FloatModel:
    """Convert in the worker, and compare on `items` besides its own inputs."""
    scratch.mkdir(exist_ok=True)
    np.savez(scratch / "inputs.npz", input_0=items)
    request = FrontendRequest(
        source_path=str(path), source_format=SourceFormat.ONNX, scratch_path=str(scratch), batch=batch
    )
    with Worker(environment(Environment.ONNX)) as worker:
        made = worker.load(request)
        answers = worker.answer(scratch / "inputs.npz", scratch / "answers.npz")
    assert max(made.max_abs_diff, answers.max_abs_diff) < 1e-5
    return made


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(6).normal(size=(count, 16, 16, 3)).astype(np.float32)


def test_network_that_nobody_simplified_gives_the_same_bytes_as_simplified(models: Path, tmp_path: Path) -> None:
    made = convert(models / "network", tmp_path / "raw", 1, images(3))
    convert(models / "simplified", tmp_path / "simplified", 1, images(3))
    raw, simplified = ((tmp_path / name / "float.tflite").read_bytes() for name in ("raw", "simplified"))
    assert raw == simplified
    assert made.inputs[0].shape == (1, 16, 16, 3)
    assert made.removed == ("Dropout",)
    assert {"Shape", "Gather", "Concat"} <= set(made.operators_before)
    assert not {"SHAPE", "GATHER", "CONCATENATION"} & set(made.operators_after)


def test_network_takes_any_batch_when_asked_to(models: Path, tmp_path: Path) -> None:
    made = convert(models / "network", tmp_path, None, images(5))
    assert made.inputs[0].shape == (-1, 16, 16, 3)
    assert made.outputs[0].shape == (-1, 5)


def test_classifier_of_text_lines_that_others_trained_answers_as_in_onnxruntime(tmp_path: Path) -> None:
    # 452 nodes that nobody simplified; its height and width are open, and fixed as the refusal asks for.
    path = package_file(*RAPID_OCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    run_maker(Environment.ONNX, "onnx_fixed_shape", str(path), str(tmp_path / "fixed"), "3", "48", "192")
    lines = np.random.default_rng(8).uniform(-1, 1, size=(2, 48, 192, 3)).astype(np.float32)
    made = convert(tmp_path / "fixed", tmp_path / "scratch", 1, lines)
    assert made.inputs[0].shape == (1, 48, 192, 3)
    assert made.operators_before["BatchNormalization"] == 35
    assert made.operators_after["CONV_2D"] + made.operators_after["DEPTHWISE_CONV_2D"] == 53


def test_transcriber_of_music_that_others_trained_answers_as_in_onnxruntime(tmp_path: Path) -> None:
    path = package_file(*BASIC_PITCH, "basic_pitch/saved_models/icassp_2022/nmp.onnx")
    seconds = np.arange(43844, dtype=np.float32) / 22050
    chord = sum(np.sin(2 * np.pi * pitch * seconds) for pitch in (220.0, 277.2, 329.6))
    made = convert(path, tmp_path, 1, np.float32(0.2) * np.asarray(chord, dtype=np.float32).reshape(1, -1, 1))
    assert len(made.outputs) == 3


def test_models_that_no_device_can_serve_are_refused_by_name(models: Path) -> None:
    fared = json.loads(run_maker(Environment.ONNX, "opened", "onnx", str(models), *REFUSED).splitlines()[-1])
    told = {
        name: (said, expected) for name, expected in REFUSED.items() if not (said := fared[name]).startswith(expected)
    }
    assert not told
