"""`run_model` over a loaded model: one item in, its chosen outputs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import PipelineError
from shared.runtime import ops
from shared.runtime.values import Outputs
from shared.steps import given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.manifest import TensorSpec
    from shared.runtime.interpreter import Interpreter
    from shared.steps import RunModel

    Tensor = NDArray[Any]


class ModelCall:
    """Feeds one model; as its interpreter, not for two threads at once."""

    def __init__(self, step: RunModel, interpreter: Interpreter, takes: int) -> None:
        """Join a step that takes so many values and its model. Raises PipelineError when they do not fit."""
        self._interpreter = interpreter
        self._order = _input_order(step, interpreter.inputs, takes)
        self.places = tuple(_output(each, interpreter.outputs) for each in given(step.outputs, (0,)))
        """Of the chosen outputs among the model's."""
        self.outputs = tuple(interpreter.outputs[place] for place in self.places)

    def input_for(self, take: int) -> TensorSpec:
        """Return the model input that gets one of the values."""
        return self._interpreter.inputs[self._order[take]]

    def run(self, items: Sequence[Tensor]) -> Outputs:
        """Return the outputs for one item, without their batch axes.

        Raises:
            PipelineError: wrong shapes or dtypes, or items that are no finite numbers.
            ModelFailedError: the model broke.
        """
        fed: list[Tensor] = [np.empty(0)] * len(items)
        for take, item in enumerate(items):
            array = ops.as_dtype(item, np.dtype(self.input_for(take).dtype))
            # The model would answer NaN, and be blamed: enough of such requests would revert a good release.
            if array.dtype.kind == "f" and item.dtype != np.uint8 and not np.isfinite(array).all():
                raise PipelineError("the item holds NaN, infinity or numbers beyond float32")
            fed[self._order[take]] = array[np.newaxis]
        answered = self._interpreter.run(fed)
        return Outputs(_without_batch(answered[place]) for place in self.places)


def _input_order(step: RunModel, inputs: Sequence[TensorSpec], takes: int) -> tuple[int, ...]:
    """Return the place of the model input for each value."""
    names = [spec.name for spec in inputs]
    if takes != len(inputs):
        raise PipelineError(f"the model takes {len(inputs)} inputs ({', '.join(names)}), and run_model feeds {takes}")
    asked = given(step.inputs, None)
    if asked is None:
        return tuple(range(takes))
    for name in asked:
        if name not in names:
            raise PipelineError(f"the model has no input {name!r}: it takes {', '.join(names)}")
    return tuple(names.index(name) for name in asked)


def _output(asked: int | str, outputs: Sequence[TensorSpec]) -> int:
    names = [spec.name for spec in outputs]
    if isinstance(asked, str):
        if asked not in names:
            raise PipelineError(f"the model has no output {asked!r}: it gives {', '.join(names)}")
        return names.index(asked)
    if asked >= len(outputs):
        raise PipelineError(f"the model has no output {asked}: it gives {len(outputs)} ({', '.join(names)})")
    return asked


def _without_batch(output: Tensor) -> Tensor:
    # Some detectors say how many boxes there are in a tensor without any axis.
    return output[0] if output.ndim and output.shape[0] == 1 else output
