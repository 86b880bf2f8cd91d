"""Images: channels first in PyTorch and ONNX, last in a `.tflite`, as pipelines give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converters.frontends.frontend import Tensor

_IMAGE_RANK = 4
_IMAGE_CHANNELS = frozenset({1, 3, 4})


def is_channel_first_image(shape: Sequence[int | None], dtype: str) -> bool:
    """Say whether an input `(N, C, H, W)` is an image: grey, colour, or colour with transparency."""
    if len(shape) != _IMAGE_RANK or dtype not in {"float32", "uint8"}:
        return False
    _, channels, height, width = shape
    if channels not in _IMAGE_CHANNELS or height is None or width is None:
        return False
    # (N, 1, 1, 40) is a row of features, and (N, 3, 224, 3) has its channels last already.
    return height > channels and width not in _IMAGE_CHANNELS


def channels_first(tensor: Tensor) -> Tensor:
    """Return `(N, H, W, C)` as `(N, C, H, W)`."""
    return np.ascontiguousarray(tensor.transpose(0, 3, 1, 2))
