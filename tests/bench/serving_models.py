"""The models and requests that serving is measured with; made once, without the network, into .cache/bench."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageFilter

from agent.core.plan import SlotSpec
from shared import manifest
from shared.ids import ModelName, ReleaseId
from shared.pipeline import MODEL_ONLY, DecodeImage, PipelineSpec, ResizeImage, RunModel, TopLabels
from tests.support import models

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CACHE: Final = Path(__file__).parents[2] / ".cache" / "bench"
SIDE: Final = 224
LABELS: Final = tuple(f"class {number}" for number in range(1000))
IMAGES: Final = PipelineSpec(
    steps=(DecodeImage(), ResizeImage(height=SIDE, width=SIDE), RunModel(), TopLabels(count=5)), labels=LABELS
)
KEY: Final = "a-key-of-an-application-that-asks-a-lot"


def mlp() -> bytes:
    """4 → 3: a model that takes no time."""
    return models.random_classifier(4, 3, seed=1, batch=-1)


def dense(*, batch: int | None) -> bytes:
    """256 → 1024 → 1024 → 10 in float32, with a batch that is free (None) or fixed."""

    def build() -> bytes:
        import tensorflow as tf

        tf.keras.utils.set_random_seed(1)
        layers = [tf.keras.layers.Dense(1024, activation="relu") for _ in range(2)]
        head = tf.keras.layers.Dense(10, activation="softmax")
        given = tf.keras.layers.Input(batch_shape=(batch, 256))
        return bytes(tf.lite.TFLiteConverter.from_keras_model(tf.keras.Sequential([given, *layers, head])).convert())

    return _cached(f"dense-{batch or 'free'}.tflite", build)


def mobilenet() -> bytes:
    """MobileNetV2-0.35 of 224 × 224, random weights, int8 throughout; takes and gives bytes."""

    def build() -> bytes:
        import tensorflow as tf

        tf.keras.utils.set_random_seed(1)
        network = tf.keras.applications.MobileNetV2(
            input_tensor=tf.keras.layers.Input(batch_shape=(1, SIDE, SIDE, 3)), alpha=0.35, weights=None
        )
        rng = np.random.default_rng(1)
        converter = tf.lite.TFLiteConverter.from_keras_model(network)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [rng.integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.float32)] for _ in range(8)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        return bytes(converter.convert())

    return _cached("mobilenet-v2-035-int8.tflite", build)


def photograph() -> bytes:
    """A JPEG of 640 × 480, about as large as a camera's."""
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (480, 640, 3)).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.4))
    out = io.BytesIO()
    noise.save(out, "JPEG", quality=85)
    return out.getvalue()


def slot(releases: Path, name: str, model: bytes, pipeline: PipelineSpec = MODEL_ONLY) -> SlotSpec:
    """Write a release, and return the slot that names it."""
    release = ReleaseId(f"release-{name}")
    made = models.release_manifest(model, release_id=release, name=name, pipeline=pipeline)
    models.release_folder(releases / release, model, made)
    return SlotSpec(
        model=ModelName(name),
        release_id=release,
        version_number=1,
        folder=str(releases / release),
        artifact_sha256=manifest.digest(model),
        manifest_sha256=manifest.digest(manifest.encode(made)),
    )


def json_request(name: str, row: NDArray[Any]) -> bytes:
    """A request of one row as JSON."""
    tensor = {"name": "input", "shape": list(row.shape), "datatype": "FP32", "data": row.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    return _post(f"/v2/models/{name}/infer", body, "Content-Type: application/json")


def binary_request(name: str, row: NDArray[Any]) -> bytes:
    """The same with the numbers as bytes, asking for bytes."""
    size = {"binary_data_size": row.nbytes}
    tensor = {"name": "input", "shape": list(row.shape), "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    more = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Type: application/octet-stream"
    return _post(f"/v2/models/{name}/infer", head + row.tobytes(), more)


def image_request(name: str, encoded: bytes) -> bytes:
    """An image to be classified."""
    return _post(f"/v2/models/{name}/classify", encoded, "Content-Type: image/jpeg")


def get_request(path: str) -> bytes:
    """A page."""
    return f"GET {path} HTTP/1.1\r\nHost: device\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


def _post(path: str, body: bytes, more: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: device\r\nAuthorization: Bearer {KEY}\r\n{more}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _cached(name: str, build: Callable[[], bytes]) -> bytes:
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        path.write_bytes(build())
    return path.read_bytes()
