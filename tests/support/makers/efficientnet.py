"""`efficientnet.py FOLDER CODE WEIGHTS`: EfficientNet-lite0 as others trained it, and what PyTorch says of pictures.

Reads `items.npy` `(N, 224, 224, 3)` in FOLDER, normalised; writes `efficientnet.pt2` and `probabilities.npy` there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from tests.support.makers.torch_models import efficientnet, save


def main(folder: Path, code: str, weights: str) -> None:
    network = efficientnet(code, weights)
    save(network, (torch.zeros(1, 3, 224, 224),), folder / "efficientnet.pt2")
    items = torch.from_numpy(np.load(folder / "items.npy").transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        np.save(folder / "probabilities.npy", torch.softmax(network(items), -1).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
