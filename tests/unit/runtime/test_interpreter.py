from __future__ import annotations

import numpy as np
import pytest

from shared.errors import ModelLoadError, PipelineError
from shared.hardware import Runtime
from shared.manifest import TensorSpec
from shared.runtime.interpreter import Kernels, LiteRtInterpreter, runtime_name_and_version
from tests.support.models import dense_classifier, one_hot_classifier, random_classifier


def test_interpreter_loaded_describes_inputs_and_outputs() -> None:
    interpreter = LiteRtInterpreter(one_hot_classifier(10), threads=1)
    assert interpreter.inputs == (TensorSpec(name="input", dtype="float32", shape=(1, 10)),)
    assert interpreter.outputs == (TensorSpec(name="scores", dtype="float32", shape=(1, 10)),)


def test_interpreter_free_batch_is_described_as_minus_one() -> None:
    interpreter = LiteRtInterpreter(random_classifier(4, 3, seed=1, batch=-1), threads=1)
    assert interpreter.inputs[0].shape == (-1, 4)
    assert interpreter.outputs[0].shape == (-1, 3)


@pytest.mark.parametrize("kernels", list(Kernels))
def test_interpreter_run_computes_softmax_of_product(kernels: Kernels) -> None:
    rng = np.random.default_rng(5)
    weights, bias = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    item = rng.normal(size=(1, 6)).astype(np.float32)
    (scores,) = LiteRtInterpreter(dense_classifier(weights, bias), threads=1, kernels=kernels).run([item])
    powers = np.exp(item @ weights + bias)
    np.testing.assert_allclose(scores, powers / powers.sum(), rtol=1e-5)


def test_interpreter_batches_of_any_size_equal_single_items() -> None:
    interpreter = LiteRtInterpreter(random_classifier(8, 3, seed=2), threads=1)
    items = np.random.default_rng(2).random((7, 8), dtype=np.float32)
    singly = np.concatenate([interpreter.run([items[[index]]])[0] for index in range(7)])
    for size in (7, 2, 1, 5):
        np.testing.assert_allclose(interpreter.run([items[:size]])[0], singly[:size], rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 5), np.float32), "takes shape"),
        (np.zeros(4, np.float32), "takes shape"),
        (np.zeros((0, 4), np.float32), "takes shape"),
        (np.zeros((1, 4), np.float64), "takes float32, got float64"),
        (np.zeros((1, 4), np.uint8), "takes float32, got uint8"),
    ],
)
def test_interpreter_wrong_input_is_refused_with_what_it_takes(array: np.ndarray, said: str) -> None:
    interpreter = LiteRtInterpreter(random_classifier(4, 3, seed=1), threads=1)
    with pytest.raises(PipelineError, match=said):
        interpreter.run([array])


def test_interpreter_wrong_number_of_inputs_is_refused() -> None:
    interpreter = LiteRtInterpreter(random_classifier(4, 3, seed=1), threads=1)
    with pytest.raises(PipelineError, match="takes 1 inputs, got 2"):
        interpreter.run([np.zeros((1, 4), np.float32)] * 2)


def test_interpreter_after_refused_input_still_answers() -> None:
    interpreter = LiteRtInterpreter(one_hot_classifier(4), threads=1)
    with pytest.raises(PipelineError):
        interpreter.run([np.zeros((3, 9), np.float32)])
    assert interpreter.run([np.eye(4, dtype=np.float32)[[2]]])[0].argmax() == 2


@pytest.mark.parametrize("content", [b"", b"not a model", b"TFL4" * 50])
def test_interpreter_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(ModelLoadError, match="not of kind TFL3"):
        LiteRtInterpreter(content, threads=1)


def test_interpreter_cut_model_is_refused() -> None:
    model = one_hot_classifier(10)
    with pytest.raises(ModelLoadError):
        LiteRtInterpreter(model[: len(model) // 2], threads=1)


def test_runtime_is_named_with_its_version() -> None:
    runtime, version = runtime_name_and_version()
    assert runtime is Runtime.AI_EDGE_LITERT
    assert version.split(".")[0].isdigit()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4, dtype=">f4")[np.newaxis],
        np.arange(8, dtype=np.float32)[np.newaxis][:, :4],
        np.repeat(np.arange(4, dtype=np.float32), 2)[np.newaxis, ::2],
        np.frombuffer(np.arange(4, dtype=np.float32).tobytes(), np.float32)[np.newaxis],
    ],
    ids=["other byte order", "part of a row", "every second number", "read-only"],
)
def test_interpreter_input_in_any_memory_layout_is_read_as_its_numbers(array: np.ndarray) -> None:
    model = dense_classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32), softmax=False)
    (answer,) = LiteRtInterpreter(model, threads=1).run([array])
    np.testing.assert_array_equal(answer, [[0, 1, 2, 3]])


def test_interpreter_fortran_order_is_read_as_its_numbers() -> None:
    model = dense_classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32), softmax=False)
    items = np.arange(8, dtype=np.float32).reshape(2, 4)
    (answer,) = LiteRtInterpreter(model, threads=1).run([np.asfortranarray(items)])
    np.testing.assert_array_equal(answer, items)
