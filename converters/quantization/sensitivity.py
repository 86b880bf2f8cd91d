"""Which layers a network can least afford to have rounded: each one's weights alone, measured at the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.quantization.activations import Probe, spread
from converters.quantization.bias import mean_inputs, mean_shift, takes_correction
from converters.quantization.graph import FloatGraph
from converters.quantization.weight_grid import Grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from converters.quantization.graph import Layer

    Tensor = NDArray[Any]

MAX_PROBES = 40
"""Of each layer so many items are answered: the order settles with fewer than the figures do."""
_ENDLESS_DB = 200.0
"""Stands for an error too small to be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """What rounding one layer does to the answers of the whole network."""

    output_tensor: str
    """As `Recipe.kept_float` names it."""
    operator: str
    snr_db: float
    """Answers over their error, as powers."""
    weights: int
    """How many numbers the layer holds: what keeping it float costs."""


def rank(
    model: bytes,
    calibration: Sequence[Tensor],
    probes: Sequence[Tensor],
    *,
    bits: int = 8,
    correct_bias: bool = True,
) -> tuple[LayerSensitivity, ...]:
    """Return every layer with weights of its own, the worst first; layers alike stand in the order of the graph.

    `calibration` and `probes` are model inputs without batch axis. With `correct_bias`, as the recipe will have it, a
    layer is judged by what correction leaves of its error. Errors of several layers do not simply add: measure whole.

    Raises:
        SchemeFailedError: the model does not take the items.
    """
    graph, probes = FloatGraph(model), spread(probes, MAX_PROBES)
    layers = [layer for layer in graph.layers if graph.is_exclusive(layer.weights)]
    grid = Grid(bits=bits)
    corrected = [layer for layer in layers if correct_bias and takes_correction(graph, layer)]
    means = mean_inputs(model, calibration, sorted({layer.input for layer in corrected})) if corrected else {}
    right = _answers(model, graph, probes)
    ranked = []
    for layer in layers:
        mean = means.get(layer.input) if takes_correction(graph, layer) else None
        answers = _answers(_with_rounded(model, layer, grid, mean), graph, probes)
        ranked.append(
            LayerSensitivity(
                output_tensor=graph.names[layer.operator.outputs[0]],
                operator=layer.operator.name,
                snr_db=snr_db(right, answers),
                weights=int(np.prod(graph.shape(layer.weights))),
            )
        )
    return tuple(sorted(ranked, key=lambda each: each.snr_db))


def snr_db(right: Tensor, answers: Tensor) -> float:
    """Return the power of the right answers over that of the difference, in decibels."""
    noise = float(((answers.astype(np.float64) - right) ** 2).sum())
    signal = float((right.astype(np.float64) ** 2).sum())
    if not np.isfinite(noise):
        return -_ENDLESS_DB
    return min(10 * float(np.log10(signal / noise)), _ENDLESS_DB) if noise > 0 and signal > 0 else _ENDLESS_DB


def _with_rounded(model: bytes, layer: Layer, grid: Grid, mean_input: Tensor | None) -> bytes:
    graph = FloatGraph(model)
    if mean_input is not None and layer.bias is not None:
        graph.replace(layer.bias, graph.constant(layer.bias) - mean_shift(graph, layer, grid, mean_input))
    graph.replace(layer.weights, grid.rounded(graph.constant(layer.weights), layer.axis))
    return graph.content


def _answers(model: bytes, graph: FloatGraph, items: Sequence[Tensor]) -> Tensor:
    probe = Probe(model, keep_all=False)
    answers = []
    for item in items:
        probe.run(item)
        answers.append(np.concatenate([probe.tensor(index).reshape(-1) for index in graph.outputs]))
    return np.stack(answers)
