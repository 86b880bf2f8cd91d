"""Artifacts on the runtime that old devices have: right answers, garbage without an error, refusals, crashes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.environments import Environment
from converters.environments.located import folder_of
from converters.judgement import runtimes
from converters.quantization import quantize, restamp
from shared.conversion import CheckOutcome, Recipe, RuntimeVersion
from shared.hardware import Runtime
from shared.manifest import GoldenCase, GoldenCheck, Scheme
from shared.runtime.golden import to_tensor_data
from shared.runtime.interpreter import LiteRtInterpreter, runtime_name_and_version
from tests.support.workers import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

pytestmark = pytest.mark.timeout(600)
OLD = RuntimeVersion(runtime=Runtime.TFLITE_RUNTIME, version="2.14.0")
HERE = RuntimeVersion(runtime=Runtime.AI_EDGE_LITERT, version=runtime_name_and_version()[1])


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    environment(Environment.TFLITE)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    from sklearn.datasets import load_digits

    images: Tensor = (load_digits().images / 16).astype(np.float32)
    return images.reshape(-1, 64)


@pytest.fixture(scope="module")
def network(digits: Tensor) -> bytes:
    """Dense layers trained on digits, as a float file of TensorFlow's own converter."""
    import tensorflow as tf
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    fitted = MLPClassifier((96, 64), max_iter=200, random_state=1).fit(digits[:1000], load_digits().target[:1000])
    weights = [tf.constant(matrix, tf.float32) for matrix in fitted.coefs_]
    biases = [tf.constant(vector, tf.float32) for vector in fitted.intercepts_]

    @tf.function(input_signature=[tf.TensorSpec((1, 64), tf.float32)])  # type: ignore[untyped-decorator] # no types
    def answer(x: Any) -> Any:  # noqa: ANN401 - a TensorFlow tensor
        for matrix, vector in zip(weights[:-1], biases[:-1], strict=True):
            x = tf.nn.relu(tf.matmul(x, matrix) + vector)
        return tf.nn.softmax(tf.matmul(x, weights[-1]) + biases[-1])

    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([answer.get_concrete_function()]).convert())


def golden(model: bytes, items: Tensor) -> GoldenCheck:
    """Return what the model answers here, to be held to on another runtime."""
    interpreter = LiteRtInterpreter(model, threads=1)
    asked = [item[np.newaxis] for item in items]
    cases = [
        GoldenCase(inputs=(to_tensor_data(x),), outputs=tuple(map(to_tensor_data, interpreter.run([x])))) for x in asked
    ]
    return GoldenCheck(cases=tuple(cases), atol=0.05, rtol=0.0)


@pytest.mark.parametrize("runtime", [OLD, HERE], ids=["old", "here"])
@pytest.mark.parametrize("scheme", [Scheme.FLOAT32, Scheme.FLOAT16, Scheme.FULL_INT8])
def test_artifact_that_old_runtimes_know_passes_there_too(
    network: bytes, digits: Tensor, scheme: Scheme, runtime: RuntimeVersion
) -> None:
    made = quantize.quantize(network, Recipe(scheme=scheme), list(digits[:100]))
    found = runtimes.check(made, golden(made, digits[1000:1008]), runtime, ROOT)
    assert (found.outcome, found.reason) == (CheckOutcome.PASSED, "")


@pytest.fixture(scope="module")
def unstamped(network: bytes) -> bytes:
    """Dynamic int8 as litert-quantizer leaves it: it says of itself that the oldest runtime may run it."""
    from litert_quantizer import quantizer, recipe

    made = quantizer.Quantizer(network, recipe.dynamic_wi8_afp32()).quantize(enable_progress_report=False)
    return bytes(made.quantized_model)


def test_dynamic_int8_that_an_old_runtime_computes_as_garbage_without_an_error_fails(
    unstamped: bytes, digits: Tensor
) -> None:
    found = runtimes.check(unstamped, golden(unstamped, digits[1000:1008]), OLD, ROOT)
    assert found.outcome is CheckOutcome.FAILED
    assert found.reason.startswith("golden_mismatch: ")


def test_dynamic_int8_with_its_true_versions_is_refused_by_an_old_runtime(unstamped: bytes, digits: Tensor) -> None:
    stamped = restamp.restamp(unstamped)
    check = golden(stamped, digits[1000:1008])
    old, here = (runtimes.check(stamped, check, runtime, ROOT) for runtime in (OLD, HERE))
    assert old.outcome is CheckOutcome.FAILED
    assert old.reason.startswith("model_load_failed: ")
    assert here.outcome is CheckOutcome.PASSED


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("kill -SEGV $$", "runtime_crashed: SIGSEGV"),
        ("kill -FPE $$", "runtime_crashed: SIGFPE"),
        ("exit 3", "runtime_crashed: it ended with code 3 and no answer"),
    ],
)
def test_runtime_that_crashes_is_a_failed_check_and_names_the_signal(tmp_path: Path, does: str, reason: str) -> None:
    # No file is known that passes the verifier and still crashes the old runtime.
    python = folder_of(Environment.TFLITE, tmp_path) / "bin" / "python"
    python.parent.mkdir(parents=True)
    (python.parents[1] / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.0\n")
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    found = runtimes.check(b"", GoldenCheck(cases=(), atol=0.0, rtol=0.0), OLD, tmp_path)
    assert (found.outcome, found.reason) == (CheckOutcome.FAILED, reason)


def test_runtime_version_that_nobody_has_is_not_checked(network: bytes, digits: Tensor) -> None:
    wanted = RuntimeVersion(runtime=Runtime.TFLITE_RUNTIME, version="2.5.0")
    found = runtimes.check(network, golden(network, digits[:1]), wanted, ROOT)
    assert found.outcome is CheckOutcome.NOT_CHECKED
    assert "no environment here has tflite-runtime 2.5.0" in found.reason


def test_environment_that_is_not_installed_names_the_remedy(network: bytes, digits: Tensor, tmp_path: Path) -> None:
    found = runtimes.check(network, golden(network, digits[:1]), OLD, tmp_path)
    assert found.outcome is CheckOutcome.NOT_CHECKED
    assert "litefleet converters install tflite" in found.reason
