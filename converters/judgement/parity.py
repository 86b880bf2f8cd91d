"""Whether an artifact still computes what its source does, number by number over every output.

A converter can end well and have lost the weights, as Keras 3 through concrete functions does: only answers show it.
Outputs come in blocks, so that they need not be in memory together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.manifest import Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_MAX_DIFFERENCE = {Scheme.FLOAT32: 1e-4, Scheme.FLOAT16: 0.05}
"""Largest difference of any answer, as a share of the largest answer. Measured 1e-6 on float32. The noise of float16
stood 45 dB below the signal on 4.6 million parameters, and the largest of many differences is several times that."""
_MAX_NOISE = 0.5
"""Largest root mean square of the difference, as a share of the source's own variation. For int8 the only bound: single
answers may move far at class borders. Faithful int8 measured 0.01 to 0.2; a broken one 1.3."""
_TINY = float(np.finfo(np.float32).tiny)
_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the numbers of one output of the source are, and how much they vary between items."""

    span: float
    """The largest, without its sign."""
    variation: float
    """Root mean square distance from the mean of each column."""
    not_finite: int
    """Items answered with NaN or infinity; the other figures mean nothing then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far an artifact's answers are from its source's, in the worst of its outputs."""

    not_finite: int
    """Items answered with NaN or infinity."""
    max_abs_diff: float | None
    """None where an answer is NaN or infinite."""
    relative_difference: float
    """`max_abs_diff` as a share of the largest source answer."""
    noise: float
    """Root mean square of the difference as a share of how much the source's answers vary between items."""

    @property
    def snr_db(self) -> float | None:
        """The same as a ratio of signal to noise; None without any noise, or without any number."""
        return -20 * math.log10(self.noise) if 0 < self.noise < math.inf else None


def scale_of(output: Tensor) -> Scale:
    """Measure one output of the source, `(N, K)`."""
    starts = range(0, len(output), _ROWS)
    blocks = [slice(start, start + _ROWS) for start in starts]
    not_finite = sum(int((~np.isfinite(output[block])).any(axis=1).sum()) for block in blocks)
    if not_finite:
        return Scale(span=math.inf, variation=math.inf, not_finite=not_finite)
    # In 64 bits: the mean of many squares would lose the small ones.
    mean = sum(output[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(output)
    squares = sum(float(((output[block] - mean) ** 2).sum()) for block in blocks)
    span = max(_TINY, *(float(np.abs(output[block].astype(np.float64)).max()) for block in blocks))
    # A source that says the same of everything varies by nothing; then any difference is measured by its size.
    return Scale(span=span, variation=math.sqrt(squares / output.size) or span, not_finite=0)


class Tally:
    """Sums up how far an artifact's outputs are from its source's, block by block."""

    def __init__(self, scales: Sequence[Scale]) -> None:
        """Begin; `scales` of the source's outputs, all of which are finite."""
        self._scales = scales
        self._squares = [0.0] * len(scales)
        self._counts = [0] * len(scales)
        self._largest = [0.0] * len(scales)
        self._not_finite = 0

    def add(self, source: Sequence[Tensor], artifact: Sequence[Tensor]) -> None:
        """Count in the outputs for one block of items, `(B, K)` each."""
        broken = np.zeros(len(artifact[0]), dtype=bool)
        for output in artifact:
            broken |= ~np.isfinite(output).all(axis=1)
        self._not_finite += int(broken.sum())
        if self._not_finite:
            return
        for number, (was, now) in enumerate(zip(source, artifact, strict=True)):
            difference = now.astype(np.float64) - was
            self._squares[number] += float((difference**2).sum())
            self._counts[number] += difference.size
            self._largest[number] = max(self._largest[number], float(np.abs(difference).max()))

    def parity(self) -> Parity:
        """Return the figures so far."""
        if self._not_finite:
            return Parity(not_finite=self._not_finite, max_abs_diff=None, relative_difference=math.inf, noise=math.inf)
        noises = [
            math.sqrt(squares / max(count, 1)) / scale.variation
            for squares, count, scale in zip(self._squares, self._counts, self._scales, strict=True)
        ]
        shares = [largest / scale.span for largest, scale in zip(self._largest, self._scales, strict=True)]
        return Parity(not_finite=0, max_abs_diff=max(self._largest), relative_difference=max(shares), noise=max(noises))


def refusal(parity: Parity, scheme: Scheme, samples: int) -> str:
    """Return "" for an artifact that computes as its source, else the word and the figures."""
    if parity.not_finite:
        return f"nan_outputs: {parity.not_finite} of {samples} answers are NaN or infinite"
    limit = _MAX_DIFFERENCE.get(scheme)
    if limit is not None and not parity.relative_difference <= limit:
        return f"output_mismatch: {parity.relative_difference:.4g} of the range > {limit:g}"
    if not parity.noise <= _MAX_NOISE:
        return f"output_mismatch: noise {parity.noise:.3g} of the signal > {_MAX_NOISE:g}"
    return ""
