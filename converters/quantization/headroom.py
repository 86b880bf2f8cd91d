"""Keeps biases within 32 bits.

A bias is counted in steps of input scale times weight scale. A channel with weights of next to nothing, of which
EfficientNet-lite0 has a hundred, dead since training, has a bias of more steps than 32 bits hold; litert-quantizer cuts
it off there, and the cast from floats then turns great positive ones into the most negative number. With a wider range
for such weights the steps are larger: the weights round to zero, which they nearly are, and the bias is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from converters.quantization.calibration import Range
    from converters.quantization.graph import FloatGraph, Layer

    Tensor = NDArray[Any]

_MOST_STEPS = 2.0**29
"""A quarter of what fits: products come on top, and an input may be given a finer scale than its range tells."""
_FULL = 2**31 - 2**8
"""Beyond it a bias was cut off: floats near the end of 32 bits lie that far apart."""
_GREATEST_WEIGHT = 127


def weight_bounds(graph: FloatGraph, ranges: Mapping[str, Range], *, levels: int, symmetric: bool) -> dict[str, Tensor]:
    """Return the greatest absolute weight to provide for, by weight tensor, shaped to scale it; only where it grows."""
    bounds = {}
    for layer in graph.layers:
        measured = ranges.get(graph.names[layer.input])
        if measured is None or layer.bias is None:
            continue
        reach = 2 * max(-measured.low, measured.high) if symmetric else measured.high - measured.low
        found = _bound(graph, layer, max(reach, 1e-9) / (levels - 1))
        if found is not None:
            bounds[graph.names[layer.weights]] = found
    return bounds


def overflowing(model: bytes) -> list[str]:
    """Return the names of bias tensors in a quantized file that were cut off."""
    root = schema.Model.GetRootAs(model)
    names = []
    for index in range(root.SubgraphsLength()):
        graph = root.Subgraphs(index)
        for number in range(graph.TensorsLength()):
            tensor = graph.Tensors(number)
            kind = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}.get(tensor.Type())
            if kind is None or tensor.Quantization() is None or not tensor.Quantization().ScaleLength():
                continue
            content = _content(model, root.Buffers(tensor.Buffer()))
            if content and np.abs(np.frombuffer(content, kind).astype(np.float64)).max() >= _FULL:
                names.append(tensor.Name().decode(errors="replace"))
    return names


def _bound(graph: FloatGraph, layer: Layer, input_step: float) -> Tensor | None:
    weights = graph.constant(layer.weights)
    bias = graph.constant(layer.bias) if layer.bias is not None else np.zeros(0)
    others = tuple(axis for axis in range(weights.ndim) if axis != layer.axis)
    greatest = np.abs(weights).max(axis=others, keepdims=True)
    if bias.size != greatest.size:
        return None
    needed = np.abs(bias) * _GREATEST_WEIGHT / (input_step * _MOST_STEPS)
    wider = np.maximum(greatest, needed.reshape(greatest.shape))
    return wider if (wider > greatest).any() else None


def _content(model: bytes, buffer: Any) -> bytes:  # noqa: ANN401 - the generated reader has no types
    if buffer.Offset() > 1:
        return model[buffer.Offset() : buffer.Offset() + buffer.Size()]
    return b"" if buffer.DataIsNone() else bytes(buffer.DataAsNumpy())
