"""Whether an artifact still computes what its source does.

A converter can end well and have lost the weights, as Keras 3 through concrete functions does: only answers show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shared.manifest import Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]

_MAX_DIFFERENCE = {Scheme.FLOAT32: 1e-4, Scheme.FLOAT16: 0.05}
"""Largest difference of any answer, as a share of the largest answer. Measured 1e-6 on float32. The noise of float16
stood 45 dB below the signal on 4.6 million parameters, and the largest of many differences is several times that."""
_MAX_NOISE = 0.5
"""Largest root mean square of the difference, as a share of the source's own variation. For int8 the only bound: single
answers may move far at class borders. Faithful int8 measured 0.01 to 0.2; a broken one 1.3."""
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far an artifact's answers are from its source's, over the evaluation data."""

    not_finite: int
    """Items answered with NaN or infinity."""
    max_abs_diff: float | None
    """None where an answer is NaN or infinite."""
    relative_difference: float
    """`max_abs_diff` as a share of the largest source answer."""
    noise: float
    """Root mean square of the difference as a share of how much the source's answers vary between items."""


def compare(source: Scores, artifact: Scores) -> Parity:
    """Compare `(N, K)` scores of the same items. The source's must be finite."""
    not_finite = int((~np.isfinite(artifact)).any(axis=1).sum())
    if not_finite:
        endless = float("inf")
        return Parity(not_finite=not_finite, max_abs_diff=None, relative_difference=endless, noise=endless)
    # In 64 bits: the mean of many squares would lose the small ones.
    difference = artifact.astype(np.float64) - source
    largest = float(np.abs(difference).max())
    span = max(float(np.abs(source).max()), _TINY)
    # A source that says the same of everything varies by nothing; then any difference is measured by its size.
    variation = float(np.std(source.astype(np.float64) - source.mean(axis=0))) or span
    return Parity(
        not_finite=0,
        max_abs_diff=largest,
        relative_difference=largest / span,
        noise=float(np.sqrt((difference**2).mean())) / variation,
    )


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
