"""Whether what a model is asked today is like what it was judged on: figures of requests, counted into bins.

The population stability index PSI = Σ (qᵢ - pᵢ) · ln(qᵢ / pᵢ) compares shares p of the reference with shares q of now.
Of two samples of the same population of sizes N and n, PSI / (1/N + 1/n) is about χ² with B-1 degrees of freedom for B
bins: each (qᵢ-pᵢ)·ln(qᵢ/pᵢ) is (qᵢ-pᵢ)²/pᵢ to first order, and qᵢ-pᵢ has the variance of both samples. So it is
(B-1)·(1/N + 1/n) on average although nothing has changed, and the usual rule of thumb (over 0.25 is a shift) alarms on
any small sample. Here an index counts as drift when it exceeds both the quantile of that distribution and `LEAST_PSI`.

Every look is a chance of a false alarm. Look k of one of S figures may take α / S · 6 / (π² k²) of it, which add up to
α over all figures and for ever (union bound: however figures and looks depend on each other).

Source: B. Yurdakul, J. Naranjo, "Statistical properties of the population stability index", Journal of Risk Model
Validation 14(4), 2020.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shared.manifest import ReferenceHistogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]
    Numbers = NDArray[np.float64]

ALPHA: Final = 0.01
"""Chance that a release which sees only what it was judged on ever alarms, over all its figures and looks."""
LEAST_PSI: Final = 0.1
"""Below, a difference may be real and is of no use to know: the usual word for it is "no significant shift"."""
MAX_FEATURES: Final = 32
"""Inputs of up to so many numbers are watched number by number; larger ones by what they are as a whole."""
CONFIDENCE, CLASS = "confidence", "class"

_BINS: Final = 10
_LEAST_IN_BIN: Final = 10
"""Expected in a bin of the reference; with fewer the quantile above is no good approximation."""
_MAX_CLASS_BINS: Final = 32
_NUMBERS: Final = "biuf"
_HALF: Final = 0.5
"""Added to every count, so that an empty bin has a logarithm."""


def input_figures(fed: Tensor) -> dict[str, float]:
    """Return the figures of one item as the model is fed it, without batch axis.

    Of an image, `input.mean` is its brightness, `input.deviation` its contrast and `input.extremes` the share of it
    that is clipped; of sound, the first is its offset and the second its loudness.
    """
    if fed.dtype.kind not in _NUMBERS or fed.size == 0:
        return {}
    flat = fed.reshape(-1).astype(np.float64)
    if flat.size <= MAX_FEATURES:
        return {f"input.feature_{index}": value for index, value in enumerate(flat.tolist())}
    extremes = np.count_nonzero((flat == flat.min()) | (flat == flat.max()))
    return {
        "input.mean": float(flat.mean()),
        "input.deviation": float(flat.std()),
        "input.extremes": extremes / flat.size,
    }


def output_figures(scores: Tensor) -> dict[str, float]:
    """Return the figures of one answer, `(K,)`; none of a model that is no classifier."""
    if scores.size <= 1:
        return {}
    best = int(scores.argmax())
    figures: dict[str, float] = {CLASS: float(best)}
    if float(scores.min()) >= 0.0 and float(scores[best]) <= 1.0:
        figures[CONFIDENCE] = float(scores[best])
    return figures


def references(figures: Sequence[dict[str, float]]) -> tuple[ReferenceHistogram, ...]:
    """Return the histograms of what every item has a figure of; none from too few items."""
    if not figures:
        return ()
    names = [name for name in figures[0] if all(name in each for each in figures)]
    made = ((name, np.array([each[name] for each in figures])) for name in names)
    found = (_of_classes(values) if name == CLASS else _of_numbers(name, values) for name, values in made)
    return tuple(each for each in found if each is not None)


def bin_of(reference: ReferenceHistogram, value: float) -> int:
    """Return in which bin a value belongs."""
    return bisect_right(reference.edges, value)


def psi(expected: Sequence[int], observed: Sequence[int]) -> float:
    """Return the index of two histograms over the same bins."""
    p, q = _shares(expected), _shares(observed)
    return float(np.sum((q - p) * np.log(q / p)))


def threshold(expected: Sequence[int], observed: Sequence[int], *, chance: float) -> float:
    """Return what the index exceeds with at most this `chance` although both come from one population."""
    scale = 1 / max(sum(expected), 1) + 1 / max(sum(observed), 1)
    return max(LEAST_PSI, scale * chi_square_quantile(chance, len(expected) - 1))


def chance_of_look(look: int, figures: int) -> float:
    """Return what the `look`-th look (from 1) at one of so many figures may take of `ALPHA`."""
    return ALPHA / figures * 6 / (math.pi * look) ** 2


def chi_square_tail(value: float, freedom: int) -> float:
    """Return the chance that χ² exceeds `value`: a finite sum for whole degrees of freedom."""
    half = value / 2
    if freedom % 2:
        term, total = math.sqrt(half / math.pi) * math.exp(-half) * 2, math.erfc(math.sqrt(half))
        steps = [index + 1.5 for index in range((freedom - 1) // 2)]
    else:
        term, total = math.exp(-half), 0.0
        steps = [index + 1.0 for index in range(freedom // 2)]
    for step in steps:
        total += term
        term *= half / step
    return total


def chi_square_quantile(chance: float, freedom: int) -> float:
    """Return the value that χ² exceeds with this chance; 0 without any freedom."""
    if freedom < 1:
        return 0.0
    low, high = 0.0, 1.0
    while chi_square_tail(high, freedom) > chance:
        high *= 2
    # Halved until no double lies between.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(middle, freedom) > chance else (low, middle)
    return high


def _shares(counts: Sequence[int]) -> Numbers:
    smooth = np.asarray(counts, np.float64) + _HALF
    return np.asarray(smooth / smooth.sum())


def _of_numbers(name: str, values: Numbers) -> ReferenceHistogram | None:
    bins = min(_BINS, len(values) // _LEAST_IN_BIN)
    if bins < 2 or not np.isfinite(values).all():  # noqa: PLR2004 - one bin tells nothing apart
        return None
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    if edges[-1] >= values.max():
        # The highest bin holds one value alone, again and again: what lies above it is something else.
        edges = np.append(edges, np.nextafter(values.max(), np.inf))
    return _counted(name, edges, values)


def _of_classes(values: Numbers) -> ReferenceHistogram | None:
    """Classes apart where each is common enough, neighbours together where it is not."""
    least = max(_LEAST_IN_BIN, -(-len(values) // _MAX_CLASS_BINS))
    if len(values) < 2 * least:
        return None
    edges, held = [], 0
    for index, count in enumerate(np.bincount(values.astype(np.int64)).tolist()):
        if held >= least:
            edges.append(float(index))
            held = 0
        held += count
    if edges and held < least:
        edges.pop()
    return _counted(CLASS, np.array(edges), values) if edges else None


def _counted(name: str, edges: Numbers, values: Numbers) -> ReferenceHistogram:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return ReferenceHistogram(name=name, edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
