"""Candidate against stable on one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import PipelineError
from shared.wire import PairedCounts

if TYPE_CHECKING:
    from agent.serving.requests import Outcome

FLIP_TOLERANCE = 0.01
"""Relative difference over which two answers that are no classifier's count as different."""


@dataclass(slots=True, kw_only=True)
class PairTally:
    """The running sums of one comparison; its counts only grow."""

    pairs: int = 0
    flips: int = 0
    slower: int = 0
    candidate_errors: int = 0

    def count(self, *, candidate: Outcome | PipelineError, stable: Outcome | PipelineError, max_ratio: float) -> None:
        """Count one request that both releases ran. Where stable failed there is nothing to compare with."""
        # NaN differs from itself: on a request that breaks both, the candidate would be blamed for being the same.
        if isinstance(stable, PipelineError) or _says_nothing(stable):
            return
        self.pairs += 1
        if isinstance(candidate, PipelineError) or _only_first_is_nan(candidate, stable):
            self.candidate_errors += 1
            return
        self.flips += differs(candidate, stable)
        self.slower += candidate.compute_ms > max_ratio * stable.compute_ms

    def frozen(self) -> PairedCounts:
        """Return the sums as they stand."""
        return PairedCounts(
            pairs=self.pairs, flips=self.flips, slower=self.slower, candidate_errors=self.candidate_errors
        )


def differs(candidate: Outcome, stable: Outcome) -> bool:
    """Say whether the answers to a request's first item differ: a batch is one pair, and its first item speaks for it.

    Classifiers (one output `(N, K)`, K ≥ 2): another best label, by name where there are names. Anything else: another
    size, or any number that is further off than 1 % of the larger magnitude of the two answers, so that a value that
    happens to be near zero does not decide.
    """
    if candidate.top and stable.top:
        return candidate.top != stable.top
    ours, theirs = candidate.values, stable.values
    if ours.shape != theirs.shape:
        return True
    if ours.size == 0:
        return False
    scale = max(float(np.abs(ours).max()), float(np.abs(theirs).max()))
    return not bool((np.abs(ours - theirs) <= FLIP_TOLERANCE * scale).all())


def _says_nothing(outcome: Outcome) -> bool:
    """Tell an answer with which none can be compared; a classifier's infinite logits still rank its labels."""
    if outcome.top:
        return bool(np.isnan(outcome.values).any())
    return not bool(np.isfinite(outcome.values).all())


def _only_first_is_nan(candidate: Outcome, stable: Outcome) -> bool:
    return not bool(np.isfinite(candidate.values).all()) and bool(np.isfinite(stable.values).all())
