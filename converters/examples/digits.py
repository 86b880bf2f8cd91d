"""Trains classifiers of handwritten digits (UCI, from scikit-learn): `python -m converters.examples.digits --out DIR`.

Leaves `model.keras`, the dataset `data/`, `client.npz` (images to send and what they show) and `pipeline.json` in DIR.
The same variant gives the same bytes on the same machine.
"""

from __future__ import annotations

import argparse
import os
import re
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shared import dataset
from shared.dataset import DATASET_FILE, DatasetSpec, Shard, Split
from shared.manifest import digest
from shared.pipeline import ColourMode, DecodeImage, Normalise, PipelineSpec, ResizeImage, RunModel, TopLabels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_SIDE = 8
_CLASSES = 10
_GREY_STEP = 15
"""The data has 17 grey levels; 0..240 is the widest even spread of them over a byte."""
_TRAIN = 900
_CALIBRATION = 100
_SEARCH = 200
_CLIENT = 200
_SPLIT_SEED = 7
_ADDRESS = re.compile(rb'"shared_object_id": \d+')
_SAVED_AT = '{"keras_version": "3", "date_saved": "2026-01-01@00:00:00"}'

PIPELINE = PipelineSpec(
    steps=(
        DecodeImage(colour=ColourMode.GREY),
        ResizeImage(height=_SIDE, width=_SIDE),
        Normalise(scale=1 / (16 * _GREY_STEP)),
        RunModel(),
        TopLabels(count=3),
    ),
    labels=tuple(str(digit) for digit in range(_CLASSES)),
)


class Variant(StrEnum):
    """What to train."""

    V1 = "v1"
    """A small network, trained briefly."""
    V2 = "v2"
    """The same network trained longer, on augmented images."""
    WRONG = "wrong"
    """Trained as well as v2, on labels that a mapping mistake moved: faithful to its data, and wrong."""
    SLOW = "slow"
    """A right but far too large network, which looks at each image 25 times: 280 times the arithmetic of v1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a variant is trained."""

    seed: int
    epochs: int
    filters: tuple[int, ...]
    """Channels of each convolution."""
    dense: int
    learning_rate: float = 2e-3
    augment: bool = False
    """Whether training images are shifted by up to a pixel."""
    views: int = 1
    """Shifts of the image each way, within half a pixel, over which the answer is the mean."""
    label_map: tuple[int, ...] = tuple(range(_CLASSES))
    """Digit shown → label that the team wrote down."""


RECIPES = {
    Variant.V1: Recipe(seed=1, epochs=6, filters=(32, 64), dense=64),
    Variant.V2: Recipe(seed=2, epochs=25, filters=(32, 64), dense=64, augment=True),
    # Off by one from 3 to 7: what a class list with one folder missing does.
    Variant.WRONG: Recipe(seed=3, epochs=12, filters=(32, 64), dense=64, label_map=(0, 1, 2, 4, 5, 6, 7, 3, 8, 9)),
    Variant.SLOW: Recipe(seed=4, epochs=5, filters=(64, 128, 128), dense=128, learning_rate=1e-3, views=5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """The data, shuffled once and cut into parts that do not overlap. Images are `(N, 8, 8, 1) uint8`."""

    train: Tensor
    train_digits: Tensor
    calibration: Tensor
    calibration_digits: Tensor
    search: Tensor
    search_digits: Tensor
    gate: Tensor
    gate_digits: Tensor


def load_digits() -> Digits:
    """Return the 1,797 real digits, split."""
    from sklearn.datasets import load_digits as load

    bunch = load()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(bunch.target))
    images = (bunch.images[order] * _GREY_STEP).astype(np.uint8)[..., np.newaxis]
    digits = bunch.target[order].astype(np.int64)
    ends = np.cumsum([_TRAIN, _CALIBRATION, _SEARCH])
    train, calibration, search, gate = zip(np.split(images, ends), np.split(digits, ends), strict=True)
    return Digits(
        train=train[0],
        train_digits=train[1],
        calibration=calibration[0],
        calibration_digits=calibration[1],
        search=search[0],
        search_digits=search[1],
        gate=gate[0],
        gate_digits=gate[1],
    )


def train(recipe: Recipe, data: Digits) -> Any:  # noqa: ANN401 - a Keras model; Keras ships no types
    """Train by the recipe and return a Keras model without optimizer state."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    model = _network(recipe)
    model.compile(keras.optimizers.Adam(recipe.learning_rate), "sparse_categorical_crossentropy")
    pixels = data.train.astype(np.float32) / (16 * _GREY_STEP)
    labels = np.asarray(recipe.label_map)[data.train_digits]
    model.fit(pixels, labels, epochs=recipe.epochs, batch_size=32, verbose=0)
    trained = _network(recipe)
    trained.set_weights(model.get_weights())
    return _mean_over_views(trained, recipe.views) if recipe.views > 1 else trained


def write(out: Path, variant: Variant) -> None:
    """Train `variant` and write its files into `out`."""
    recipe, data = RECIPES[variant], load_digits()
    out.mkdir(parents=True, exist_ok=True)
    _save(train(recipe, data), out / "model.keras")
    write_dataset(out / "data", data, recipe)
    np.savez(out / "client.npz", x=data.gate[:_CLIENT], y=data.gate_digits[:_CLIENT])
    (out / "pipeline.json").write_bytes(msgspec.json.encode(PIPELINE))


def write_dataset(folder: Path, data: Digits, recipe: Recipe) -> None:
    """Write what judges a variant; the team measures by its own labels, so that a mistake in them is in both."""
    folder.mkdir(exist_ok=True)
    splits = {
        Split.CALIBRATION: (data.calibration, data.calibration_digits),
        Split.SEARCH: (data.search, data.search_digits),
        Split.GATE: (data.gate, data.gate_digits),
    }
    shards = []
    for split, (items, digits) in splits.items():
        path = folder / f"{split}.npz"
        np.savez(path, x=items, y=np.asarray(recipe.label_map)[digits])
        content = path.read_bytes()
        shards.append(Shard(path=path.name, sha256=digest(content), length_bytes=len(content), split=split))
    spec = DatasetSpec(name="digits", licence="CC-BY-4.0", shards=tuple(shards), labels=PIPELINE.labels)
    (folder / DATASET_FILE).write_bytes(dataset.encode(spec))


def _network(recipe: Recipe) -> Any:  # noqa: ANN401 - a Keras model; Keras ships no types
    import keras

    layers = [keras.Input((_SIDE, _SIDE, 1), name="image")]
    if recipe.augment:
        layers.append(keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=recipe.seed))
    layers += [keras.layers.Conv2D(filters, 3, padding="same", activation="relu") for filters in recipe.filters]
    layers += [
        keras.layers.MaxPooling2D(),
        keras.layers.Dropout(0.3, seed=recipe.seed),
        keras.layers.Flatten(),
        keras.layers.Dense(recipe.dense, activation="relu"),
        keras.layers.Dense(_CLASSES, activation="softmax"),
    ]
    return keras.Sequential(layers, name="digits")


def _mean_over_views(model: Any, views: int) -> Any:  # noqa: ANN401 - Keras models; Keras ships no types
    import keras

    image = keras.Input((_SIDE, _SIDE, 1), name="image")
    shift = keras.layers.Conv2D(views**2, 3, padding="same", use_bias=False, name="shift")
    # As one batch, so that the graph holds the network once.
    shifted = keras.ops.reshape(keras.ops.transpose(shift(image), (0, 3, 1, 2)), (-1, _SIDE, _SIDE, 1))
    scores = keras.ops.reshape(model(shifted), (-1, views**2, _CLASSES))
    shift.set_weights([_bilinear_shifts(views)])
    return keras.Model(image, keras.ops.mean(scores, axis=1))


def _bilinear_shifts(views: int) -> Tensor:
    """Return `(3, 3, 1, views²)` kernels, each of which moves an image by a part of a pixel."""
    offsets = np.linspace(-0.5, 0.5, views)
    weights = np.stack([np.maximum(-offsets, 0), 1 - np.abs(offsets), np.maximum(offsets, 0)])
    kernels = np.einsum("ia,jb->ijab", weights, weights).reshape(3, 3, 1, views**2)
    return np.asarray(kernels, dtype=np.float32)


def _save(model: Any, path: Path) -> None:  # noqa: ANN401 - a Keras model; Keras ships no types
    model.save(path)
    # Keras writes the time of day and memory addresses into the file: the same model must be the same bytes.
    with zipfile.ZipFile(path) as archive:
        members = {item.filename: archive.read(item) for item in archive.infolist()}
    members["metadata.json"] = _SAVED_AT.encode()
    members["config.json"] = _count_addresses(members["config.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])


def _count_addresses(config: bytes) -> bytes:
    numbers: dict[bytes, bytes] = {}
    return _ADDRESS.sub(lambda found: numbers.setdefault(found[0], b'"shared_object_id": %d' % len(numbers)), config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one variant."""
    parser = argparse.ArgumentParser(
        prog="python -m converters.examples.digits", description="Train a classifier of handwritten digits."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--variant", type=Variant, choices=list(Variant), default=Variant.V1)
    options = parser.parse_args(arguments)
    # Read by TensorFlow when it is imported; its start-up notes say nothing of this work.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    write(options.out, options.variant)


if __name__ == "__main__":
    main()
