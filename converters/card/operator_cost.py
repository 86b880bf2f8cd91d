"""What an operator costs: multiplications with addition (MACs), from shapes alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Shape = tuple[int, ...]
    Shapes = Sequence[Shape]

_MATRIX = 2


def macs(operator: str, inputs: Shapes, outputs: Shapes) -> int:
    """Return the MACs of one invocation; 0 for operators that only add, compare or move.

    `inputs` has () for an input that is left out. Shapes that fit no such operator count for 0.
    """
    count = _COUNTS.get(operator)
    if count is None or not outputs:
        return 0
    try:
        return count(inputs, outputs[0])
    except IndexError:
        # An operator with other shapes than it should have: the runtime will say so.
        return 0


def _convolution(inputs: Shapes, output: Shape) -> int:
    # Weights: (out, height, width, in).
    return math.prod(output) * math.prod(inputs[1][1:])


def _depthwise(inputs: Shapes, output: Shape) -> int:
    # Weights: (1, height, width, channels).
    return math.prod(output) * math.prod(inputs[1][1:-1])


def _transposed(inputs: Shapes, _output: Shape) -> int:
    # Inputs: shape of the output, weights (out, height, width, in), values; each of these meets its channel's weights.
    return math.prod(inputs[2]) * math.prod(inputs[1][:-1])


def _convolution_3d(inputs: Shapes, output: Shape) -> int:
    # Weights: (depth, height, width, in, out).
    return math.prod(output) * math.prod(inputs[1][:-1])


def _dense(inputs: Shapes, output: Shape) -> int:
    # Weights: (out, in).
    return math.prod(output) * inputs[1][-1]


def _product(inputs: Shapes, output: Shape) -> int:
    # Whichever side is transposed: (rows · depth) · (depth · columns) over rows · columns is depth squared.
    left, right = math.prod(inputs[0][-_MATRIX:]), math.prod(inputs[1][-_MATRIX:])
    answer = math.prod(output[-_MATRIX:])
    return math.prod(output) * math.isqrt(left * right // answer) if answer else 0


def _recurrent(inputs: Shapes, _output: Shape) -> int:
    steps = math.prod(inputs[0][:-1])
    return steps * sum(math.prod(shape) for shape in inputs[1:] if len(shape) == _MATRIX)


_COUNTS: dict[str, Callable[[Shapes, Shape], int]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "CONV_3D": _convolution_3d,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _product,
    "LSTM": _recurrent,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _recurrent,
    "BIDIRECTIONAL_SEQUENCE_LSTM": _recurrent,
    "RNN": _recurrent,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _recurrent,
    "SVDF": _recurrent,
}
