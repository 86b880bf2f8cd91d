"""The failure guard: an e-process against "at most 2 % of devices fail", which may be looked at after every report.

Devices count in order of activation, as successes until they fail; the likelihoods are exchangeable, so that two counts
suffice. Fed in order of arrival instead, with failures faster than successes, it would stop 9 of 10 good rollouts.
"""

from __future__ import annotations

from functools import lru_cache

from shared.evidence import evidence_above

ACCEPTABLE_FAILURE_SHARE = 0.02
"""Devices fail for reasons of their own, too: a full disk, a dying card."""
ALPHA = 0.01
"""Chance of stopping a release whose true failure share is acceptable, over all looks together."""


def guard_evidence(*, exposed: int, failed: int) -> float:
    """Return the e-value against the share of failures being acceptable."""
    return evidence_above(trials=exposed, hits=failed, share=ACCEPTABLE_FAILURE_SHARE)


def guard_stops(evidence: float) -> bool:
    """Say whether the evidence is enough to stop."""
    return evidence >= 1 / ALPHA


@lru_cache(maxsize=4096)
def failures_that_stop(devices: int) -> int | None:
    """Return with how many failures among this many exposed devices the guard stops; None when it never can."""
    if not guard_stops(guard_evidence(exposed=devices, failed=devices)):
        return None
    low, high = 1, devices
    while low < high:
        middle = (low + high) // 2
        if guard_stops(guard_evidence(exposed=devices, failed=middle)):
            high = middle
        else:
            low = middle + 1
    return low
