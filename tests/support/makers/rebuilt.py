"""`rebuilt.py FORMAT PATH`: writes one small model of a format, to be converted more than once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def pytorch(path: Path) -> None:
    import torch

    from tests.support.makers import torch_models

    torch.manual_seed(7)
    torch_models.save(torch_models.Network().eval(), (torch_models.IMAGES[:1],), path)


def onnx(path: Path) -> None:
    from tests.support.makers import onnx_models

    path.write_bytes(onnx_models.network().SerializeToString())


def jax(path: Path) -> None:
    from tests.support.makers import jax_models

    drawn = np.random.default_rng(3).normal
    shapes = jax_models.SHAPES[jax_models.convolutional]
    weights = {name: (drawn(size=shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    jax_models.write(path, lambda x: jax_models.convolutional(weights, x), (1, 8, 8, 1))


def sklearn(path: Path) -> None:
    import skops.io
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = load_iris(return_X_y=True)
    skops.io.dump(make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=1)).fit(rows, labels), path)


if __name__ == "__main__":
    {"pytorch": pytorch, "onnx": onnx, "jax": jax, "sklearn": sklearn}[sys.argv[1]](Path(sys.argv[2]))
