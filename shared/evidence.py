"""Evidence on a share that stays valid however often one looks, and the four words a gate may say.

An e-process multiplies likelihood ratios; under the null its value exceeds 1/alpha with a chance of at most alpha, at
any time (Ville's inequality). Bernoulli likelihoods are exchangeable, so that counts suffice.
Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2023; Ville 1939.
"""

from __future__ import annotations

import math
from enum import StrEnum

_GRID = 20
"""Alternatives mixed on each side: finer changes the stopping time by less than one observation."""


class Verdict(StrEnum):
    """What a gate says. Only PASS lets anything go on; CONTINUE waits for more; INCONCLUSIVE holds."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    CONTINUE = "continue"


def evidence_above(*, trials: int, hits: int, share: float) -> float:
    """Return the e-value against "the share of hits is at most `share`" (0..1)."""
    # At the ends likelihood ratios divide by zero: one hit disproves "never", and nothing "at most always".
    if share <= 0:
        return math.inf if hits else 1.0
    if share >= 1:
        return 1.0
    return _mixture(trials, hits, share, [share + (1 - share) * j / _GRID for j in range(1, _GRID + 1)])


def evidence_below(*, trials: int, hits: int, share: float) -> float:
    """Return the e-value against "the share of hits is at least `share`" (0..1)."""
    if share >= 1:
        return math.inf if hits < trials else 1.0
    if share <= 0:
        return 1.0
    return _mixture(trials, hits, share, [share * j / _GRID for j in range(_GRID)])


def share_verdict(*, trials: int, hits: int, margin: float, alpha: float) -> Verdict:
    """Judge a share against its margin: FAIL above, PASS below, else CONTINUE; each wrong with a chance ≤ alpha.

    A margin of 0 never passes: no number of trials shows that something never happens.
    """
    if evidence_above(trials=trials, hits=hits, share=margin) >= 1 / alpha:
        return Verdict.FAIL
    if evidence_below(trials=trials, hits=hits, share=margin) >= 1 / alpha:
        return Verdict.PASS
    return Verdict.CONTINUE


def _mixture(trials: int, hits: int, null: float, alternatives: list[float]) -> float:
    total = 0.0
    for alternative in alternatives:
        log_ratio = _log_term(hits, alternative, null) + _log_term(trials - hits, 1 - alternative, 1 - null)
        total += math.exp(min(log_ratio, 700.0))  # exp(709) overflows a double; 1e304 is evidence enough
    return total / len(alternatives)


def _log_term(count: int, alternative: float, null: float) -> float:
    if count == 0:
        return 0.0
    # Something was seen that this alternative calls impossible: its share in the mixture is nothing.
    if alternative <= 0.0:
        return -math.inf
    return count * math.log(alternative / null)
