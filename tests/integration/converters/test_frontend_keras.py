from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.failures import ConversionFailedError
from converters.loaders import keras as loader
from shared.conversion import FailureKind, SourceFormat
from shared.errors import InvalidInputError
from tests.support.frontends import convert
from tests.support.packages import package_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

# Sleep stages from a night's heartbeats: Keras 3, masked bidirectional GRUs. BSD-3-Clause.
SLEEPECG = ("sleepecg", "0.6.0", "1e4379b1e0a9358f55df093d73246da9170d98ab868071284a04bc603e610c24")
SLEEPECG_MEMBER = "sleepecg/classifiers/wrn-gru-mesa.zip"
RANDOM = {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "CUSTOM"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def digits() -> Tensor:
    from sklearn.datasets import load_digits

    images: Tensor = load_digits().images[:40, ..., np.newaxis] / 16
    return images.astype(np.float32)


@pytest.fixture(scope="module")
def augmented(folder: Path, digits: Tensor) -> Path:
    """A network that was trained on augmented digits, as people save it: with all that only training needs."""
    import keras
    from keras import layers
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomTranslation(0.1, 0.1),
            layers.GaussianNoise(0.05),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SpatialDropout2D(0.1),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    images, labels = load_digits(return_X_y=True)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit((images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels, epochs=3, verbose=0)
    assert digits.shape == (40, 8, 8, 1)
    path = folder / "augmented.keras"
    model.save(path)
    return path


def sleep_stages(folder: Path, *, steps: int | None) -> Path:
    """Take the published file out of its package; `steps` fixes the length of a night, which it leaves open."""
    path = folder / f"sleep-{steps}.keras"
    with zipfile.ZipFile(package_file(*SLEEPECG, member=SLEEPECG_MEMBER)) as package:
        (folder / "published.keras").write_bytes(package.read("classifier.keras"))
    with zipfile.ZipFile(folder / "published.keras") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json" and steps is not None:
                content = content.replace(b"[null, null, ", f"[null, {steps}, ".encode())
            target.writestr(name, content)
    return path


def test_trained_network_loses_its_training_only_parts_and_nothing_else(
    augmented: Path, digits: Tensor, tmp_path: Path
) -> None:
    made = convert(augmented, SourceFormat.KERAS, tmp_path, [digits])
    assert made.max_abs_diff <= 1e-5
    assert made.answers[0].shape == (40, 10)
    assert {"RandomTranslation", "GaussianNoise", "SpatialDropout2D", "Dropout"} <= made.model.operators_before.keys()
    assert [part.split()[0] for part in made.model.removed] == [
        "RandomTranslation",
        "GaussianNoise",
        "SpatialDropout2D",
        "Dropout",
    ]
    assert not RANDOM & made.model.operators_after.keys()
    assert made.model.operators_after["CONV_2D"] == made.model.operators_after["FULLY_CONNECTED"] == 1
    assert made.model.inputs[0].shape == (1, 8, 8, 1)
    assert "tensorflow" in made.model.worker
    assert made.model.peak_memory_bytes < 2 * 2**30


def test_same_file_in_two_processes_gives_the_same_bytes_for_any_batch(
    augmented: Path, digits: Tensor, tmp_path: Path
) -> None:
    first = convert(augmented, SourceFormat.KERAS, tmp_path / "1", [digits[:5]], batch=None)
    second = convert(augmented, SourceFormat.KERAS, tmp_path / "2", batch=None)
    assert first.sha256 == second.sha256
    assert first.model.inputs[0].shape == (-1, 8, 8, 1)
    assert first.max_abs_diff <= 1e-5
    together = first.run([digits[:3]])[0]
    np.testing.assert_allclose(together, first.answers[0][:3], atol=1e-5)


def test_published_recurrent_classifier_answers_as_keras_does(folder: Path, tmp_path: Path) -> None:
    nights = np.random.default_rng(5).normal(0, 1, (6, 24, 36)).astype(np.float32)
    # What was not measured is -1 throughout, and masked.
    nights[:, 20:] = -1
    made = convert(sleep_stages(folder, steps=24), SourceFormat.KERAS, tmp_path, [nights])
    assert made.max_abs_diff <= 1e-5
    assert made.model.operators_before["GRU"] == 4
    assert made.model.parameters == 7380


def test_published_file_whose_length_is_open_is_refused_by_that_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"leaves its input shape open: \(None, None, 36\)"):
        loader.open_source(sleep_stages(folder, steps=None), tmp_path)


def test_several_inputs_and_outputs_keep_their_order_by_name(folder: Path, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(4)
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((3,), name="alpha")
    joined = keras.layers.Concatenate()([zeta, alpha])
    outputs = {"wide": keras.layers.Dense(6)(joined), "narrow": keras.layers.Dense(2)(joined)}
    keras.Model({"zeta": zeta, "alpha": alpha}, outputs).save(folder / "two.keras")
    source = loader.open_source(folder / "two.keras", tmp_path / "source")
    content = source.to_tflite(1)
    generator = np.random.default_rng(6)
    from shared.runtime.interpreter import LiteRtInterpreter

    interpreter = LiteRtInterpreter(content, threads=1)
    assert {spec.shape for spec in interpreter.inputs} == {(1, 4), (1, 3)}
    inputs = [generator.normal(size=spec.shape).astype(np.float32) for spec in interpreter.inputs]
    for want, got in zip(source.answer(inputs), interpreter.run(inputs), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_recurrent_network_of_any_batch_is_refused_with_the_operator_and_the_remedy(
    folder: Path, tmp_path: Path
) -> None:
    import keras

    model = keras.Sequential([keras.Input((5, 2)), keras.layers.LSTM(3)])
    model.save(folder / "lstm.keras")
    with pytest.raises(ConversionFailedError, match=r"TensorListReserve.*fixed batch, or unroll=True") as caught:
        convert(folder / "lstm.keras", SourceFormat.KERAS, tmp_path, batch=None)
    assert caught.value.kind is FailureKind.UNSUPPORTED_OP


def test_lambda_layer_is_refused_before_keras_sees_it(folder: Path, tmp_path: Path) -> None:
    import keras

    entry = keras.Input((4,))
    keras.Model(entry, keras.layers.Lambda(lambda item: item * 2)(entry)).save(folder / "lambda.keras")
    with pytest.raises(InvalidInputError, match="would run code"):
        loader.open_source(folder / "lambda.keras", tmp_path)


def test_network_that_diverged_is_refused_as_bad_input(folder: Path, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.set_weights([np.full((4, 2), np.nan, np.float32), np.zeros(2, np.float32)])
    model.save(folder / "diverged.keras")
    with pytest.raises(ConversionFailedError, match="answers NaN or infinity") as caught:
        convert(folder / "diverged.keras", SourceFormat.KERAS, tmp_path)
    assert caught.value.kind is FailureKind.BAD_INPUT
