from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.loaders import tfjs as loader
from shared.conversion import SourceFormat
from shared.errors import InvalidInputError
from tests.support.frontends import convert, pack
from tests.support.packages import npm_file
from tests.support.programs import find_program
from tests.support.tfjs import layer, model, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

# MobileNetV2 that tells what is fit to be seen: made by Keras 2.2.4, weights quantized to 8 bits. MIT.
NSFWJS = (
    "nsfwjs",
    "4.4.0",
    "sha512-krC1fgeTLXtZwgdpKJ0jm7hqv0gTSRQQRL+FhOaxaJ9Wj92t42BO3csO2odwgTAgZgf2RvkwPtp0R8Aa7dc+MA==",
)
NSFWJS_FOLDER = "dist/models/mobilenet_v2/"
UNWRAP = "process.stdout.write(JSON.stringify(require(process.argv[1])))"


def published(folder: Path) -> Path:
    """Take the published model out of the JavaScript that it is wrapped in."""
    wrapped = npm_file(*NSFWJS, member=NSFWJS_FOLDER)
    command = [str(find_program("node")), "-e", UNWRAP, str(wrapped / "model.min.js")]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    (folder / "published").mkdir()
    (folder / "published" / "model.json").write_text(text)
    ((shard,),) = ([group["paths"]] for group in json.loads(text)["weightsManifest"])
    script = (wrapped / "group1-shard1of1.min.js").read_text()
    content = max(re.findall(r'"([A-Za-z0-9+/=]{1000,})"', script), key=len)
    (folder / "published" / shard[0]).write_bytes(base64.b64decode(content))
    return pack(folder / "published", folder / "published.tar.gz")


def photographs() -> Tensor:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    small = [Image.fromarray(image).resize((224, 224)) for image in load_sample_images().images]
    return (np.stack([np.asarray(image) for image in small]) / 255).astype(np.float32)


def sigmoid(value: Tensor) -> Tensor:
    return np.asarray(1 / (1 + np.exp(-value)))


def test_published_network_answers_photographs_as_keras_does(tmp_path: Path) -> None:
    made = convert(published(tmp_path), SourceFormat.TFJS, tmp_path / "scratch", [photographs()])
    assert made.max_abs_diff <= 1e-5
    # A temple and a flower: neutral, or a drawing.
    classes = ["Drawing", "Hentai", "Neutral", "Porn", "Sexy"]
    assert {classes[answer] for answer in made.answers[0].argmax(axis=1)} <= {"Drawing", "Neutral"}
    assert made.model.parameters == 2_619_461
    assert made.model.operators_before["BatchNormalization"] == 52
    assert "BATCH" not in " ".join(made.model.operators_after)
    assert [part.split()[0] for part in made.model.removed] == ["Dropout", "Dropout"]


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Tensor, Tensor]:
    """A network trained on digits, with the layers that Keras has renamed weights of."""
    import keras
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(11)
    layers = [
        keras.layers.DepthwiseConv2D(3, depth_multiplier=4, name="depthwise"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Activation("relu", name="relu"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(10, activation="softmax", name="dense"),
    ]
    network = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    data, labels = load_digits(return_X_y=True)
    images = (data.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(images[:1200], labels[:1200], epochs=4, verbose=0)
    return network, images[1200:1300], labels[1200:1300]


def document() -> dict[str, object]:
    glorot = {"class_name": "VarianceScaling", "config": {"scale": 1, "mode": "fan_avg", "distribution": "normal"}}
    return model(
        [
            layer(
                "DepthwiseConv2D",
                "depthwise",
                batch_input_shape=[None, 8, 8, 1],
                kernel_size=[3, 3],
                depth_multiplier=4,
                depthwise_initializer=glorot,
            ),
            layer("BatchNormalization", "norm", axis=[3], momentum=0.99, epsilon=0.001),
            layer("Activation", "relu", activation="relu"),
            layer("Dropout", "dropout", rate=0.5, noise_shape=None, seed=None),
            layer("Flatten", "flatten", data_format="channels_last"),
            layer("Dense", "dense", units=10, activation="softmax", kernel_initializer=glorot, kernel_constraint=None),
        ]
    )


def weights_of(network: Any) -> dict[str, Tensor]:  # noqa: ANN401 - a Keras model
    named = {"/".join(variable.path.split("/")[-2:]): np.asarray(variable) for variable in network.weights}
    named["depthwise/depthwise_kernel"] = named.pop("depthwise/kernel")
    return named


def test_trained_network_comes_over_exactly_and_rebuilds_byte_for_byte(
    trained: tuple[Any, Tensor, Tensor], tmp_path: Path
) -> None:
    network, images, _ = trained
    archive = write(tmp_path, document(), weights_of(network))
    first = convert(archive, SourceFormat.TFJS, tmp_path / "1", [images])
    second = convert(archive, SourceFormat.TFJS, tmp_path / "2")
    assert first.max_abs_diff <= 1e-5
    assert first.sha256 == second.sha256
    # Not only as the model that was rebuilt, but as the one that was trained.
    np.testing.assert_allclose(first.run([images[:1]])[0], network(images[:1], training=False), atol=1e-5)


@pytest.mark.parametrize(("stored", "tolerance"), [("float16", 1e-3), ("uint16", 1e-3), ("uint8", 0.1)])
def test_quantized_weights_are_restored_to_what_a_browser_computes_with(
    stored: str, tolerance: float, trained: tuple[Any, Tensor, Tensor], tmp_path: Path
) -> None:
    network, images, labels = trained
    source = loader.open_source(write(tmp_path, document(), weights_of(network), stored=stored), tmp_path / "source")
    (answers,) = source.answer([images])
    np.testing.assert_allclose(answers, network(images, training=False), atol=tolerance)
    assert (answers.argmax(axis=1) == labels).mean() > 0.85


def test_recurrent_layer_keeps_the_old_hard_sigmoid(tmp_path: Path) -> None:
    lstm = layer("LSTM", "lstm", batch_input_shape=[None, 1, 2], units=1, recurrent_activation="hard_sigmoid")
    kernel = np.array([[0.9, -0.4, 0.7, 0.3], [0.2, 0.5, -0.6, 0.8]], np.float32)
    bias = np.array([0.1, 1.0, -0.2, 0.4], np.float32)
    weights = {
        "lstm/lstm_cell/kernel": kernel,
        "lstm/lstm_cell/recurrent_kernel": np.ones((1, 4), np.float32),
        "lstm/lstm_cell/bias": bias,
    }
    source = loader.open_source(write(tmp_path, model([lstm]), weights), tmp_path / "source")
    item = np.array([1.5, -0.5], np.float32)
    into, forget, cell, out = item @ kernel + bias
    gates = np.clip(0.2 * np.array([into, forget, out]) + 0.5, 0, 1)
    want = gates[2] * np.tanh(gates[0] * np.tanh(cell))
    assert forget > 0
    np.testing.assert_allclose(source.answer([item[np.newaxis, np.newaxis]])[0], [[want]], atol=1e-6)


def test_gated_layer_that_says_nothing_of_it_resets_before_as_it_used_to(tmp_path: Path) -> None:
    gru = layer("GRU", "gru", batch_input_shape=[None, 2, 1], units=1, implementation=1)
    kernel, recurrent = np.array([[0.5, -0.3, 0.8]], np.float32), np.array([[0.4, 0.6, -0.7]], np.float32)
    weights = {"gru/kernel": kernel, "gru/recurrent_kernel": recurrent, "gru/bias": np.zeros(3, np.float32)}
    source = loader.open_source(write(tmp_path, model([gru]), weights), tmp_path / "source")
    state = 0.0
    for item in (1.0, -2.0):
        update, reset = (sigmoid(item * kernel[0, gate] + state * recurrent[0, gate]) for gate in (0, 1))
        fresh = np.tanh(item * kernel[0, 2] + reset * state * recurrent[0, 2])
        state = update * state + (1 - update) * fresh
    np.testing.assert_allclose(source.answer([np.array([[[1.0], [-2.0]]], np.float32)])[0], [[state]], atol=1e-6)


def test_both_directions_get_weights_of_their_own(tmp_path: Path) -> None:
    inner = layer("SimpleRNN", "rnn", units=1, activation="linear")
    wrapped = layer("Bidirectional", "both", batch_input_shape=[None, 2, 1], layer=inner, merge_mode="concat")
    weights: dict[str, Tensor] = {}
    for way, factor in (("forward", 1.0), ("backward", 10.0)):
        weights[f"both/{way}_rnn/kernel"] = np.full((1, 1), factor, np.float32)
        weights[f"both/{way}_rnn/recurrent_kernel"] = np.zeros((1, 1), np.float32)
        weights[f"both/{way}_rnn/bias"] = np.zeros(1, np.float32)
    source = loader.open_source(write(tmp_path, model([wrapped]), weights), tmp_path / "source")
    np.testing.assert_allclose(source.answer([np.array([[[3.0], [4.0]]], np.float32)])[0], [[4.0, 30.0]])


def dense(**settings: object) -> dict[str, object]:
    return model([layer("Dense", "dense", batch_input_shape=[None, 2], units=3, **settings)])


KERNEL = {"dense/kernel": np.ones((2, 3), np.float32), "dense/bias": np.zeros(3, np.float32)}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"dense/kernel": KERNEL["dense/kernel"]}, "holds no weights for dense/bias"),
        ({**KERNEL, "dense/other": np.ones(1, np.float32)}, "'dense/other', for which the model has no place"),
        ({**KERNEL, "lost/kernel": np.ones(1, np.float32)}, "'lost/kernel', for which the model has no place"),
        ({**KERNEL, "dense/bias": np.zeros(4, np.float32)}, r"'dense/bias' has shape \(4,\), not \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_the_layers_are_refused_by_name(
    weights: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        loader.open_source(write(tmp_path, dense(), weights), tmp_path / "source")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.update(format="graph-model"), "TensorFlow.js graph-model"),
        (lambda file: file.update(modelTopology=7), "declares no model"),
        (lambda file: file.pop("modelTopology"), "is no TensorFlow.js model"),
        (lambda file: file["weightsManifest"][0].update(paths=["absent.bin"]), "'absent.bin', which is missing"),
        (lambda file: file["weightsManifest"][0].update(paths=["../../etc/passwd"]), "which is no file beside it"),
        (lambda file: file["weightsManifest"][0].update(paths=["https://a/b"]), "which is no file beside it"),
        (lambda file: file["weightsManifest"][0]["weights"][0].update(shape=[2**40]), "end in the middle"),
        (lambda file: file["weightsManifest"][0]["weights"][0].update(dtype="string"), "as string"),
    ],
)
def test_file_that_is_damaged_or_leads_elsewhere_is_refused(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    write(tmp_path, dense(), KERNEL)
    path = tmp_path / "tfjs" / "model.json"
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        loader.open_source(pack(tmp_path / "tfjs", tmp_path / "changed.zip"), tmp_path / "source")
