"""JAX exports through the worker of their environment, and those that it must refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from converters.environments import Environment
from converters.failures import ConversionFailedError
from converters.frontends.frontend import Answers, FloatModel, FrontendRequest
from converters.frontends.process import Worker
from shared.conversion import FailureKind, SourceFormat
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support.workers import environment, run_maker

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.timeout(600)
REFUSED = {
    "foreign_code": "UnsupportedOperatorError: the function calls code outside of itself, which no device has: host",
    "linear_algebra": "UnsupportedOperatorError: the function calls code outside of itself, which no device has: lap",
    "loop": "UnsupportedOperatorError: it holds a loop: unroll it",
    "spectrum": "UnsupportedOperatorError: TensorFlow Lite has no operator for fft",
    "weights_as_input": "InvalidInputError: source: its inputs and outputs do not share a batch: float32[4,3]",
    "no_batch": "InvalidInputError: source: its inputs and outputs do not share a batch: float32[]",
    "open_shape": "InvalidInputError: source: leaves a shape open",
    "tpu_only": "InvalidInputError: source: was exported for tpu alone",
    "two_devices": "InvalidInputError: source: was exported for 2 devices",
    "cut": "InvalidInputError: source: is no JAX export",
    "noise": "InvalidInputError: source: is no JAX export",
    "empty": "InvalidInputError: source: is no JAX export",
    "pickle": "InvalidInputError: source: is no JAX export",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jax")
    run_maker(Environment.JAX, "jax_models", str(folder))
    whole = (folder / "convolutional_one").read_bytes()
    (folder / "cut").write_bytes(whole[: len(whole) // 2])
    (folder / "noise").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "empty").write_bytes(b"")
    (folder / "pickle").write_bytes(b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94")
    return folder


def convert(
    path: Path, scratch: Path, batch: int | None, inputs: dict[str, NDArray[np.float32]]
) -> tuple[FloatModel, Answers]:
    """Convert in the worker, and have the source answer `inputs`."""
    request = FrontendRequest(
        source_path=str(path), source_format=SourceFormat.JAX, scratch_path=str(scratch), batch=batch
    )
    np.savez(scratch / "inputs.npz", **inputs)  # type: ignore[arg-type] # the stubs take any name for `allow_pickle`
    with Worker(environment(Environment.JAX)) as worker:
        return worker.load(request), worker.answer(scratch / "inputs.npz", scratch / "answers.npz")


@pytest.mark.parametrize(
    ("name", "batch"),
    [("convolutional_one", 1), ("convolutional_any", None), ("convolutional_any", 1), ("attentive_any", 1)],
)
def test_network_trained_on_digits_answers_as_in_jax(
    models: Path, tmp_path: Path, name: str, batch: int | None
) -> None:
    with np.load(models / "digits.npz") as digits:
        x, labels = digits["x"], digits["y"]
    made, answers = convert(models / name, tmp_path, batch, {"input_0": x})
    with np.load(tmp_path / "answers.npz") as stored:
        source = stored["output_0"]
    model = LiteRtInterpreter((tmp_path / "float.tflite").read_bytes(), threads=1)
    assert model.inputs[0].shape == (-1 if batch is None else batch, 8, 8, 1)
    assert np.abs(model.run([x])[0] - source).max() < 1e-5
    assert answers.max_abs_diff < 1e-5
    assert (source.argmax(axis=1) == labels).mean() > 0.9
    assert made.parameters > 1000


def test_same_export_in_two_processes_gives_the_same_bytes(models: Path) -> None:
    cases = ["convolutional_one/1", "convolutional_any/any", "attentive_any/1", "several/any"]
    made = [run_maker(Environment.JAX, "digests", "jax", str(models), *cases) for _ in range(2)]
    assert made[0] == made[1]
    assert [*json.loads(made[0])] == cases


def test_dictionary_of_inputs_keeps_its_order_and_loses_what_is_unused(models: Path, tmp_path: Path) -> None:
    left, right = (np.full((3, 6), value, np.float32) for value in (1.0, 10.0))
    inputs = {"input_0": left, "input_1": right, "input_2": left}
    made, _ = convert(models / "several", tmp_path, None, inputs)
    with np.load(tmp_path / "answers.npz") as stored:
        total, summed = stored["output_1"], stored["output_0"]
    assert (summed == 11.0).all()
    assert (total == 6.0).all()
    assert [spec.shape for spec in made.outputs] == [(-1, 6), (-1, 1)]


def test_free_batch_of_a_fixed_export_is_refused_with_the_remedy(models: Path, tmp_path: Path) -> None:
    with (
        Worker(environment(Environment.JAX)) as worker,
        pytest.raises(ConversionFailedError, match="symbolic_shape") as failed,
    ):
        worker.load(
            FrontendRequest(
                source_path=str(models / "convolutional_one"),
                source_format=SourceFormat.JAX,
                scratch_path=str(tmp_path),
                batch=None,
            )
        )
    assert failed.value.kind is FailureKind.BAD_INPUT


@pytest.fixture(scope="module")
def fared(models: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(run_maker(Environment.JAX, "opened", "jax", str(models), *REFUSED))
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_export_that_cannot_serve_is_refused_and_says_why(fared: dict[str, str], name: str) -> None:
    assert fared[name].startswith(REFUSED[name])


def test_private_interface_of_the_pinned_versions_is_still_there() -> None:
    # Fails when a lock moves to a version that has changed what is used of it.
    assert json.loads(run_maker(Environment.JAX, "private_interface")) == []
