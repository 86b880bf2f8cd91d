"""Writes TensorFlow.js layers models as its own converter does: Keras 2 configurations, one shard, weights by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.frontends import pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]


def layer(kind: str, name: str, **settings: object) -> dict[str, object]:
    """Return what Keras 2 says of a layer."""
    return {"class_name": kind, "config": {"name": name, "trainable": True, "dtype": "float32", **settings}}


def model(layers: Sequence[object]) -> dict[str, object]:
    """Return the document of a sequential model, without its weights."""
    config = {"class_name": "Sequential", "config": {"name": "sequential_1", "layers": list(layers)}}
    return {
        "format": "layers-model",
        "generatedBy": "keras v2.4.0",
        "convertedBy": "TensorFlow.js Converter v3.6.0",
        "modelTopology": {"keras_version": "2.4.0", "backend": "tensorflow", "model_config": config},
    }


def write(folder: Path, document: Mapping[str, object], weights: Mapping[str, Tensor], *, stored: str = "") -> Path:
    """Write and pack a model; `stored` quantizes every weight to `uint8`, `uint16` or `float16`."""
    (folder / "tfjs").mkdir()
    entries, content = [], b""
    for name, tensor in weights.items():
        entry: dict[str, object] = {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype.name}
        if stored:
            tensor_bytes, entry["quantization"] = _quantized(tensor, stored)
        else:
            tensor_bytes = tensor.tobytes()
        entries.append(entry)
        content += tensor_bytes
    # Cut in two, as the converter cuts at 4 MB: a weight may lie across the border.
    paths = {"group1-shard1of2.bin": content[: len(content) // 2], "group1-shard2of2.bin": content[len(content) // 2 :]}
    for path, part in paths.items():
        (folder / "tfjs" / path).write_bytes(part)
    manifest = [{"paths": list(paths), "weights": entries}]
    (folder / "tfjs" / "model.json").write_text(json.dumps({**document, "weightsManifest": manifest}))
    return pack(folder / "tfjs", folder / "tfjs.zip")


def _quantized(tensor: Tensor, stored: str) -> tuple[bytes, dict[str, object]]:
    if stored == "float16":
        return tensor.astype(np.float16).tobytes(), {"dtype": stored, "original_dtype": "float32"}
    least, scale = float(tensor.min()), float(np.ptp(tensor)) / np.iinfo(stored).max or 1.0
    numbers = np.rint((tensor - least) / scale).astype(stored)
    return numbers.tobytes(), {"dtype": stored, "original_dtype": "float32", "min": least, "scale": scale}
