"""The values that a weight can have once it is an integer: what rounding will do, told before it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_BYTE_BITS = 8
_SMALLEST_BOUND = 1e-9
"""As litert-quantizer has it: a channel of nothing but zeros still needs a scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Symmetric steps, one size for each output channel, block of inputs or tensor."""

    bits: int
    per_tensor: bool = False
    block: int = 0
    """Of that many inputs along the last axis each has a scale of its own; 0: a channel has one."""

    def rounded(self, weights: Tensor, axis: int) -> Tensor:
        """Return the weights as they will be; `axis` is that of the output channels."""
        exact = weights.astype(np.float64)
        if self.block:
            blocks = exact.reshape(*exact.shape[:-1], -1, self.block)
            return self._on_steps(blocks, np.abs(blocks).max(axis=-1, keepdims=True)).reshape(exact.shape)
        others = None if self.per_tensor else tuple(each for each in range(exact.ndim) if each != axis)
        return self._on_steps(exact, np.abs(exact).max(axis=others, keepdims=True))

    def _on_steps(self, exact: Tensor, bounds: Tensor) -> Tensor:
        greatest = 2 ** (self.bits - 1) - 1
        # At 8 bits the kernels want both signs to reach equally far; below, the one level more is used.
        least = -greatest if self.bits >= _BYTE_BITS else -greatest - 1
        step = np.maximum(bounds, _SMALLEST_BOUND) / greatest
        on_steps: Tensor = np.clip(np.rint(exact / step), least, greatest) * step
        return on_steps
