"""What range of values each activation is given integers for, measured on calibration items.

A moving average of the items' ranges, litert-quantizer's own way, cuts what only some of them reach: on
EfficientNet-lite0 it halved the ranges of the residual sums, and 58 % of the confident answers became other ones. Here
every item counts whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np

from converters.failures import SchemeFailedError
from converters.quantization.activations import Probe, spread
from converters.quantization.graph import FloatGraph
from shared.conversion import CalibrationMethod

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]
    Counts = NDArray[np.int64]

INT8_LEVELS = 256
INT16_LEVELS = 65536

_BINS = 4096
"""Sixteen for each level of int8, so that the error within a level shows."""
_MOST_COUNTED = 65_536
"""Values of one tensor that are counted of each item; the extremes are taken over all of them."""
_CUT_EACH_SIDE = 1e-5
"""Share of values that the percentile method leaves outside at either end. Ten times as many cost EfficientNet-lite0 a
decibel, and a thousandth at each end half of its answers."""
_SHARES = np.linspace(0.2, 1.0, 81)
"""Parts of the whole range that are tried; below a fifth nothing was ever best."""
_KL_SHARES = np.linspace(0.4, 1.0, 31)
_FROM_IMAGE = "DEQUANTIZE"
"""In a float model it stands where a uint8 image becomes the input proper."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The least and the greatest value that an activation is to hold."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often values fell into equal bins over a range."""

    whole: Range
    counts: Counts

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        edges = np.linspace(self.whole.low, self.whole.high, len(self.counts) + 1)
        centres: NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2
        return centres


def measure(model: bytes, items: Sequence[Tensor], method: CalibrationMethod, *, levels: int) -> dict[str, Range]:
    """Return the range of every float activation, by tensor name. The same items give the same ranges.

    Inputs and outputs of the model keep their whole range whatever the method: an answer that is cut off would tie with
    its neighbours just where it is surest.

    Raises:
        SchemeFailedError: there are no items, or the model answers them with NaN.
    """
    graph, items = FloatGraph(model), spread(items)
    if not len(items):
        raise SchemeFailedError("fixed ranges are measured on calibration items, and there are none")
    probe, tensors = Probe(model), graph.activations
    whole = _extremes(probe, items, tensors)
    for tensor, measured in whole.items():
        if not np.isfinite([measured.low, measured.high]).all():
            raise SchemeFailedError(f"{graph.names[tensor]} holds NaN or infinity on calibration items")
    if method is CalibrationMethod.MIN_MAX:
        return {graph.names[tensor]: measured for tensor, measured in whole.items()}
    ends = {*graph.inputs, *graph.outputs}
    ends |= {tensor for operator in graph.operators if operator.name == _FROM_IMAGE for tensor in operator.outputs}
    inner = {tensor: measured for tensor, measured in whole.items() if tensor not in ends}
    chosen = {tensor: choose(counted, method, levels) for tensor, counted in _count(probe, items, inner).items()}
    return {graph.names[tensor]: chosen.get(tensor, measured) for tensor, measured in whole.items()}


def choose(histogram: Histogram, method: CalibrationMethod, levels: int) -> Range:
    """Return the range that a method picks. Zero is always within: edges are padded with it."""
    whole = Range(low=min(histogram.whole.low, 0.0), high=max(histogram.whole.high, 0.0))
    match method:
        case CalibrationMethod.MIN_MAX:
            return whole
        case CalibrationMethod.PERCENTILE:
            return _percentile(histogram)
        case CalibrationMethod.MSE:
            return min(_candidates(whole, _SHARES), key=lambda tried: _squared_error(histogram, tried, levels))
        case CalibrationMethod.KL:
            return min(_candidates(whole, _KL_SHARES), key=lambda tried: _divergence(histogram, tried, levels))
        case _:
            assert_never(method)


def _extremes(probe: Probe, items: Sequence[Tensor], tensors: Sequence[int]) -> dict[int, Range]:
    lows, highs = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
    for item in items:
        probe.run(item)
        for tensor in tensors:
            held = probe.tensor(tensor)
            if held.size:
                # As numpy has it: a NaN stays one.
                lows[tensor] = float(np.minimum(lows[tensor], held.min()))
                highs[tensor] = float(np.maximum(highs[tensor], held.max()))
    return {tensor: Range(low=lows[tensor], high=highs[tensor]) for tensor in tensors}


def _count(probe: Probe, items: Sequence[Tensor], whole: Mapping[int, Range]) -> dict[int, Histogram]:
    counts = {tensor: np.zeros(_BINS, np.int64) for tensor in whole}
    for item in items:
        probe.run(item)
        for tensor, measured in whole.items():
            counts[tensor] += _binned(probe.tensor(tensor), measured)
    return {tensor: Histogram(whole=measured, counts=counts[tensor]) for tensor, measured in whole.items()}


def _binned(held: Tensor, whole: Range) -> Counts:
    # An odd step meets every channel in turn, whatever even number of them there is.
    step = max(1, held.size // _MOST_COUNTED) | 1
    width = max((whole.high - whole.low) / _BINS, _TINY)
    places = ((held.reshape(-1)[::step] - whole.low) / width).astype(np.int64)
    return np.bincount(places.clip(0, _BINS - 1), minlength=_BINS)


def _percentile(histogram: Histogram) -> Range:
    total = np.cumsum(histogram.counts)
    cut = _CUT_EACH_SIDE * total[-1]
    edges = np.linspace(histogram.whole.low, histogram.whole.high, _BINS + 1)
    low = float(edges[np.searchsorted(total, cut, side="right")])
    high = float(edges[min(int(np.searchsorted(total, total[-1] - cut)) + 1, _BINS)])
    return Range(low=min(low, 0.0), high=max(high, 0.0))


def _candidates(whole: Range, shares: NDArray[np.float64]) -> list[Range]:
    """Return ranges cut at the same distance from zero, so that a far value on one side costs the other nothing."""
    # The whole range first, so that it wins where narrower ones are as good.
    reaches = [float(share) * max(-whole.low, whole.high) for share in shares[::-1]]
    return [Range(low=max(whole.low, -reach), high=min(whole.high, reach)) for reach in reaches]


def _rounded(values: NDArray[np.float64], tried: Range, levels: int) -> NDArray[np.float64]:
    step = max((tried.high - tried.low) / (levels - 1), _TINY)
    zero = np.rint(-tried.low / step)
    rounded: NDArray[np.float64] = (np.clip(np.rint(values / step) + zero, 0, levels - 1) - zero) * step
    return rounded


def _squared_error(histogram: Histogram, tried: Range, levels: int) -> float:
    centres = histogram.centres
    return float(((_rounded(centres, tried, levels) - centres) ** 2 * histogram.counts).sum())


def _divergence(histogram: Histogram, tried: Range, levels: int) -> float:
    """Return how far the rounded distribution lies from the measured one (Kullback-Leibler).

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    # Zero is exact in every range, and after ReLU it outweighs all else: left in, it asks for the narrowest range.
    counts[np.abs(centres).argmin()] = 0.0
    if not counts.any():
        return 0.0
    clipped = np.clip(centres, tried.low, tried.high)
    inside = clipped == centres
    # What lies outside is held by the nearest bin inside, in the reference alone: so that cutting it off has its price.
    kept = np.flatnonzero(inside)
    if not kept.size:
        return np.inf
    reference = np.where(inside, counts, 0.0)
    reference[kept[0]] += counts[: kept[0]].sum()
    reference[kept[-1]] += counts[kept[-1] + 1 :].sum()
    _, level = np.unique(_rounded(centres[inside], tried, levels), return_inverse=True)
    alive = counts[inside] > 0
    per_level = np.bincount(level, weights=counts[inside])
    bins_alive = np.bincount(level, weights=alive.astype(np.float64))
    spread_out = np.where(alive, per_level[level] / np.maximum(bins_alive[level], 1.0), 0.0)
    held = reference[inside] / reference.sum()
    model = np.maximum(spread_out / max(spread_out.sum(), _TINY), _TINY)
    some = held > 0
    return float((held[some] * np.log(held[some] / model[some])).sum())
