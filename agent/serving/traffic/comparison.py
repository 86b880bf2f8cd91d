"""Candidate against stable on one request."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from shared.errors import PipelineError
from shared.evidence import Verdict, share_verdict
from shared.wire import PairedCounts

if TYPE_CHECKING:
    from agent.serving.requests import Outcome

FLIP_TOLERANCE: Final = 0.01
"""Relative difference over which two answers that are no classifier's count as different."""


DISTANCES: Final = (1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Upper edges of the histogram of distances between answers; a last bin holds what is beyond."""

RATIO_STEP: Final = 0.25
RATIOS: Final = tuple(2.0 ** (RATIO_STEP * step) for step in range(-8, 9))
"""Upper edges of the histogram of candidate time / stable time, quarters of an octave from 1/4 to 4; a last bin holds
what is beyond."""


FLIPS_ALLOWED: Final = 0.01
"""Share (0..1) of different answers up to which two releases count as answering alike."""
ALPHA: Final = 0.025
"""Chance of a wrong verdict on answers, and of one on times: 5 % of any, however often and long one looks."""
_SLOWER_FROM: Final = RATIOS.index(2.0**RATIO_STEP) + 1
"""First bin of pairs in which the candidate took more than 1.19 times as long: less is noise."""


@dataclass(slots=True, kw_only=True)
class PairTally:
    """The running sums of one comparison: integers that only grow, and of which those of several processes add up."""

    pairs: int = 0
    flips: int = 0
    slower: int = 0
    candidate_errors: int = 0
    distances: list[int] = field(default_factory=lambda: [0] * (len(DISTANCES) + 1))
    """How far apart the answers were, by `DISTANCES`; pairs with an error are in no bin."""
    ratios: list[int] = field(default_factory=lambda: [0] * (len(RATIOS) + 1))
    """How many times as long the candidate took, by `RATIOS`."""

    def count(
        self,
        *,
        candidate: Outcome | PipelineError,
        stable: Outcome | PipelineError,
        max_ratio: float,
        is_timed: bool = True,
    ) -> None:
        """Count one request that both releases ran. Where stable failed there is nothing to compare with.

        `is_timed` is False where one of them did not have the time to itself that it took.
        """
        # NaN differs from itself: on a request that breaks both, the candidate would be blamed for being the same.
        if isinstance(stable, PipelineError) or _says_nothing(stable):
            return
        self.pairs += 1
        if isinstance(candidate, PipelineError) or _only_first_is_nan(candidate, stable):
            self.candidate_errors += 1
            return
        self.flips += differs(candidate, stable)
        self.distances[bisect_left(DISTANCES, distance(candidate, stable))] += 1
        if is_timed:
            self.slower += candidate.compute_ms > max_ratio * stable.compute_ms
            # A clock that did not move says nothing of either; as fast as each other is the harmless reading.
            ratio = candidate.compute_ms / stable.compute_ms if stable.compute_ms > 0 else 1.0
            self.ratios[bisect_left(RATIOS, ratio)] += 1

    def frozen(self) -> PairedCounts:
        """Return the sums as they stand."""
        return PairedCounts(
            pairs=self.pairs, flips=self.flips, slower=self.slower, candidate_errors=self.candidate_errors
        )


def judged(tally: PairTally) -> tuple[Verdict, Verdict]:
    """Say whether a comparison shows a difference, in answers and in times: FAIL where it does, PASS where none is.

    An error of the candidate alone is a different answer. Times are judged by a sign test of the median.
    """
    compared = sum(tally.ratios)
    return (
        share_verdict(trials=tally.pairs, hits=tally.flips + tally.candidate_errors, margin=FLIPS_ALLOWED, alpha=ALPHA),
        share_verdict(trials=compared, hits=sum(tally.ratios[_SLOWER_FROM:]), margin=0.5, alpha=ALPHA),
    )


def distance(candidate: Outcome, stable: Outcome) -> float:
    """Return how far apart the answers to a request's first item are, 0 for the same and 1 for nothing in common.

    Classifiers whose scores are shares (0..1): total-variation distance. Anything else: the largest difference, in
    relation to the largest magnitude in the two answers; it may exceed 1, and is infinite where their sizes differ.
    """
    ours, theirs = candidate.values, stable.values
    if ours.shape != theirs.shape:
        return math.inf
    if ours.size == 0:
        return 0.0
    if candidate.confidence is not None and stable.confidence is not None:
        # Of scores that do not add up to 1 (several labels at once), the distance of what they have in mean.
        return float(np.abs(ours - theirs).sum() / max(1.0, 0.5 * (ours.sum() + theirs.sum()))) / 2
    scale = max(float(np.abs(ours).max()), float(np.abs(theirs).max()))
    if not 0 < scale < math.inf:
        # All zero, or masked logits: alike where they are equal.
        return 0.0 if bool((ours == theirs).all()) else math.inf
    return float(np.abs(ours - theirs).max()) / scale


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
