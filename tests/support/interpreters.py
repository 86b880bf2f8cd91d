"""An interpreter that a test directs: a second implementation of `shared.runtime.interpreter.Interpreter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.manifest import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]


class DirectedInterpreter:
    """A model `(N, 10) float32 → (N, 10) float32` that computes whatever it is told to."""

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        self._compute = compute
        self.inputs = (TensorSpec(name="input", dtype="float32", shape=(-1, 10)),)
        self.outputs = (TensorSpec(name="scores", dtype="float32", shape=(-1, 10)),)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Compute."""
        return [np.asarray(self._compute(inputs[0]), dtype=np.float32)]
