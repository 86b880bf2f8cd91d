"""Cross-layer equalisation: channels that use little of their tensor's range are scaled up, and their readers down.

The float model answers as before; with one range for a whole tensor, small channels then get more of its steps.
Scaling commutes with sums, means, and ReLU. ReLU6 stops at 6 wherever a channel is scaled to, so that only channels are
scaled up that stay clear of it on all calibration items, and never further than that.
Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1, with
measured ranges of activations in place of those of weights: weights have a scale for each channel already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.schema_py_generated import ActivationFunctionType

from converters.failures import SchemeFailedError
from converters.quantization.activations import Probe, spread
from converters.quantization.graph import FloatGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from converters.quantization.graph import Layer, Operator

    Tensor = NDArray[Any]

_RELU6 = 6.0
_CLEAR = 1.2
"""How far below 6 a channel must stay on calibration items: others will reach further. At 1.0 the float model's own
answers moved by 37 dB, at 1.2 by 48."""
_HALFWAY = 0.5
"""Exponent of the scales: half of the way to equal ranges, since the readers' weights grow as uneven in turn."""
_MOST = 64.0
_SILENT = 1e-4
"""Channels below this share of the tensor's range say nothing that scaling would save."""
_WRITERS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_SUM, _MEAN, _DEPTHWISE = "ADD", "MEAN", "DEPTHWISE_CONV_2D"
_RANK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors that must be scaled alike, because sums and means join them, with all that write or read them."""

    tensors: tuple[int, ...]
    writers: tuple[Layer, ...]
    readers: tuple[Layer, ...]


def equalise(model: bytes, items: Sequence[Tensor]) -> bytes:
    """Return the float model with its channels scaled; a model without such pairs of layers comes back as it was.

    Raises:
        SchemeFailedError: there are no items, or the model does not take them.
    """
    graph, items = FloatGraph(model), spread(items)
    if not len(items):
        raise SchemeFailedError("equalisation measures channels on calibration items, and there are none")
    groups = find_groups(graph)
    reaches = _channel_reaches(model, items, [tensor for group in groups for tensor in group.tensors])
    for group in groups:
        reach = np.max([reaches[tensor] for tensor in group.tensors], axis=0)
        _scale(graph, group, _scales(group, reach))
    return graph.content


def find_groups(graph: FloatGraph) -> list[Group]:
    """Return the tensors whose channels may be scaled freely: nobody but layers, sums and means touches them."""
    parents = {tensor: tensor for tensor in graph.activations}

    def top(tensor: int) -> int:
        while parents[tensor] != tensor:
            tensor = parents[tensor]
        return tensor

    for operator in graph.operators:
        for tensor in _joined(graph, operator):
            parents[top(tensor)] = top(operator.outputs[0])
    members: dict[int, list[int]] = {}
    for tensor in graph.activations:
        members.setdefault(top(tensor), []).append(tensor)
    found = (_group(graph, tuple(tensors)) for tensors in members.values())
    return [group for group in found if group is not None]


def _joined(graph: FloatGraph, operator: Operator) -> tuple[int, ...]:
    """Return the inputs of a sum or a spatial mean, whose channels are those of its output."""
    if operator.name == _SUM and operator.activation == ActivationFunctionType.NONE:
        shapes = {graph.shape(tensor) for tensor in (*operator.inputs, operator.outputs[0])}
        alike = len(shapes) == 1 and not any(graph.is_constant(tensor) for tensor in operator.inputs)
        return operator.inputs if alike else ()
    if operator.name == _MEAN:
        source, axes = operator.inputs
        spatial = len(graph.shape(source)) == _RANK and graph.is_constant(axes)
        return (source,) if spatial and sorted(graph.constant(axes).reshape(-1) % _RANK) == [1, 2] else ()
    return ()


def _group(graph: FloatGraph, tensors: tuple[int, ...]) -> Group | None:
    inside = set(tensors)
    if inside & {*graph.inputs, *graph.outputs}:
        return None
    by_operator = {id(layer.operator): layer for layer in graph.layers}
    writers, readers = [], []
    for operator in graph.operators:
        layer = by_operator.get(id(operator))
        writes, reads = bool(inside & set(operator.outputs)), bool(inside & set(operator.inputs))
        if layer is not None and operator.name in _WRITERS and _is_free(graph, layer):
            writers += [layer] if writes else []
            readers += [layer] if reads else []
        elif (writes or reads) and not (writes and _joined(graph, operator)):
            return None
    if not writers or not readers or not _same_channels(graph, writers, readers):
        return None
    return Group(tensors=tensors, writers=tuple(writers), readers=tuple(readers))


def _is_free(graph: FloatGraph, layer: Layer) -> bool:
    return graph.is_exclusive(layer.weights) and (layer.bias is None or graph.is_exclusive(layer.bias))


def _same_channels(graph: FloatGraph, writers: Sequence[Layer], readers: Sequence[Layer]) -> bool:
    """Whether every reader has one weight axis for the writers' channels: flattened images and groups have not."""
    channels = {graph.shape(layer.weights)[layer.axis] for layer in writers}
    channels |= {graph.shape(layer.weights)[-1] for layer in readers}
    return len(channels) == 1


def _channel_reaches(model: bytes, items: Sequence[Tensor], tensors: Sequence[int]) -> dict[int, Tensor]:
    probe = Probe(model)
    reaches: dict[int, Tensor] = {}
    for item in items:
        probe.run(item)
        for tensor in tensors:
            held = probe.tensor(tensor)
            reach = np.abs(held.reshape(-1, held.shape[-1])).max(axis=0).astype(np.float64)
            reaches[tensor] = np.maximum(reaches[tensor], reach) if tensor in reaches else reach
    return reaches


def _scales(group: Group, reach: Tensor) -> Tensor:
    """Return the factor of each channel: a power of two, by which no float loses a digit."""
    scales = np.ones_like(reach)
    greatest = reach.max(initial=0.0)
    alive = reach > _SILENT * greatest
    activations = {layer.operator.activation for layer in group.writers}
    if activations <= {ActivationFunctionType.NONE, ActivationFunctionType.RELU}:
        scales[alive] = (greatest / reach[alive]) ** _HALFWAY
        return np.asarray(2.0 ** np.round(np.log2(np.minimum(scales, _MOST))))
    # Weights of a depthwise reader have a scale for each of these very channels: nothing becomes uneven there.
    if activations == {ActivationFunctionType.RELU6} and all(
        layer.operator.name == _DEPTHWISE for layer in group.readers
    ):
        clear = alive & (reach * _CLEAR < _RELU6)
        scales[clear] = _RELU6 / (reach[clear] * _CLEAR)
        return np.asarray(2.0 ** np.floor(np.log2(np.clip(scales, 1.0, _MOST))))
    return scales


def _scale(graph: FloatGraph, group: Group, scales: Tensor) -> None:
    if (scales == 1.0).all():
        return
    for layer in group.writers:
        weights = graph.constant(layer.weights)
        shape = [1] * weights.ndim
        shape[layer.axis] = -1
        graph.replace(layer.weights, weights * scales.reshape(shape))
        if layer.bias is not None:
            graph.replace(layer.bias, graph.constant(layer.bias) * scales)
    for layer in group.readers:
        graph.replace(layer.weights, graph.constant(layer.weights) / scales)
