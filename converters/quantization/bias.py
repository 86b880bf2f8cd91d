"""Bias correction: what rounding the weights adds to an output on average is taken back in the bias.

A channel's rounding errors do not cancel where its inputs have a mean: on EfficientNet-lite0 the first depthwise layer
alone cost an eighth of all answers, and nearly all of that was a constant.
Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2, with
measured means in place of those told by batch normalisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import SchemeFailedError
from converters.quantization.activations import Probe, spread
from converters.quantization.graph import FloatGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from converters.quantization.graph import Layer, Window
    from converters.quantization.weight_grid import Grid

    Tensor = NDArray[Any]

_DEPTHWISE, _CONVOLUTION, _DENSE = "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED"
_ITEMS = 128
"""A mean settles with fewer items than a range does."""


def correct(model: bytes, items: Sequence[Tensor], grid_of: Callable[[Layer], Grid | None]) -> bytes:
    """Return the float model with biases that expect rounded weights; only quantized it answers as it did before.

    `grid_of` tells how a layer's weights will be rounded, None: not at all. A layer without a bias of its own is left
    as it is, and so is a transposed convolution.

    Raises:
        SchemeFailedError: there are no items, or the model does not take them.
    """
    graph = FloatGraph(model)
    layers = [layer for layer in graph.layers if grid_of(layer) is not None and takes_correction(graph, layer)]
    if not layers:
        return model
    means = mean_inputs(model, items, sorted({layer.input for layer in layers}))
    for layer in layers:
        shift = mean_shift(graph, layer, grid_of(layer), means[layer.input])
        if layer.bias is not None:
            graph.replace(layer.bias, graph.constant(layer.bias) - shift)
    return graph.content


def mean_shift(graph: FloatGraph, layer: Layer, grid: Grid | None, mean_input: Tensor) -> Tensor:
    """Return how much each output channel rises on average when the layer's weights are rounded.

    `mean_input` is the layer's input, batch axis included, as the mean over items.
    """
    weights = graph.constant(layer.weights)
    error = np.zeros_like(weights) if grid is None else grid.rounded(weights, layer.axis) - weights
    if layer.operator.name == _DENSE or layer.operator.window is None:
        return np.asarray(error @ mean_input.reshape(-1, weights.shape[-1]).mean(axis=0))
    taps = _taps(mean_input.mean(axis=0), layer.operator.window, (weights.shape[1], weights.shape[2]))
    if layer.operator.name == _DEPTHWISE:
        # Each input channel serves as many output channels, one after the other.
        taps = np.repeat(taps, weights.shape[3] // taps.shape[2], axis=2)
        return np.asarray((error[0] * taps).sum(axis=(0, 1)))
    return np.asarray(np.einsum("ohwi,hwi->o", error, taps))


def takes_correction(graph: FloatGraph, layer: Layer) -> bool:
    """Whether the layer has a bias of its own, and means of its inputs tell what rounding adds to each output."""
    if layer.bias is None or not graph.is_exclusive(layer.bias):
        return False
    name, weights = layer.operator.name, graph.constant(layer.weights)
    if name == _CONVOLUTION:
        # Grouped convolutions see fewer input channels than there are.
        return bool(graph.shape(layer.input)[-1] == weights.shape[3])
    return name in {_DEPTHWISE, _DENSE}


def mean_inputs(model: bytes, items: Sequence[Tensor], tensors: Sequence[int]) -> dict[int, Tensor]:
    """Return what tensors hold on average over the items, batch axis included.

    Raises:
        SchemeFailedError: there are no items, or the model does not take them.
    """
    items = spread(items, _ITEMS)
    if not len(items):
        raise SchemeFailedError("bias correction needs calibration items, and there are none")
    probe = Probe(model)
    sums: dict[int, Tensor] = {}
    for item in items:
        probe.run(item)
        for tensor in tensors:
            held = probe.tensor(tensor).astype(np.float64)
            sums[tensor] = sums[tensor] + held if tensor in sums else held
    return {tensor: total / len(items) for tensor, total in sums.items()}


def _taps(image: Tensor, window: Window, kernel: tuple[int, int]) -> Tensor:
    """Return `(kernel height, kernel width, channels)`: the mean of what each weight of a kernel is multiplied with.

    Linear, so that the mean image stands for all of them; the edges count with the zeros that they are padded with.
    """
    counts, starts = zip(*(_axis_plan(image.shape[axis], kernel[axis], window, axis) for axis in (0, 1)), strict=True)
    (rows, columns), (top, left) = counts, starts
    reach = [(kernel[axis] - 1) * window.dilations[axis] + counts[axis] * window.strides[axis] for axis in (0, 1)]
    padded = np.pad(image, ((top, reach[0]), (left, reach[1]), (0, 0)))
    taps = np.empty((*kernel, image.shape[2]))
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            down, right = row * window.dilations[0], column * window.dilations[1]
            seen = padded[down :: window.strides[0], right :: window.strides[1]][:rows, :columns]
            taps[row, column] = seen.mean(axis=(0, 1))
    return taps


def _axis_plan(size: int, kernel: int, window: Window, axis: int) -> tuple[int, int]:
    """Return how many answers there are along an axis, and how many zeros come before it."""
    stride, reach = window.strides[axis], (kernel - 1) * window.dilations[axis] + 1
    if not window.same:
        return max((size - reach) // stride + 1, 1), 0
    count = -(-size // stride)
    return count, max((count - 1) * stride + reach - size, 0) // 2
