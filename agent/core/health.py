"""Whether a candidate may answer, and whether it may stay: judged from this device's own paired requests.

Missing data never passes. Evidence adds up over phases and over lives of the serving process, and is never reset.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from agent.core.state import Counters, Evidence
from shared.evidence import Verdict, share_verdict
from shared.wire import PairedCounts, ProbationPolicy

if TYPE_CHECKING:
    from agent.core.plan import Stats
    from shared.ids import BootId, ModelName, ReleaseId

MEDIAN_SHARE = 0.5
"""The candidate's median ratio exceeds the policy's iff more than half of the pairs do: a sign test of the median."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict and its machine-readable reason."""

    verdict: Verdict
    reason: str = ""


@lru_cache(maxsize=256)  # asked again at every tick with the same counts; the likelihoods cost more than all the rest
def judge_shadow(policy: ProbationPolicy, counts: PairedCounts) -> Judgement:
    """Judge a comparison in which stable answered: FAIL on one failing gate, PASS when all pass, else CONTINUE."""
    if counts.candidate_errors > 0:
        return Judgement(verdict=Verdict.FAIL, reason=f"candidate_errors: {counts.candidate_errors}")
    if counts.pairs < policy.min_pairs:
        return Judgement(verdict=Verdict.CONTINUE, reason=f"{counts.pairs} of {policy.min_pairs} pairs")
    flips = _share(trials=counts.pairs, hits=counts.flips, margin=policy.max_flip_rate, alpha=policy.alpha)
    if flips is Verdict.FAIL:
        detail = f"{counts.flips} of {counts.pairs} answers differ, allowed share {policy.max_flip_rate:g}"
        return Judgement(verdict=Verdict.FAIL, reason=f"flip_rate: {detail}")
    slower = _share(trials=counts.pairs, hits=counts.slower, margin=MEDIAN_SHARE, alpha=policy.alpha)
    if slower is Verdict.FAIL:
        detail = f"{counts.slower} of {counts.pairs} took more than {policy.max_latency_ratio:g} times as long"
        return Judgement(verdict=Verdict.FAIL, reason=f"latency_ratio: {detail}")
    if flips is Verdict.PASS and slower is Verdict.PASS:
        return Judgement(verdict=Verdict.PASS, reason=f"{counts.pairs} pairs within margins")
    return Judgement(verdict=Verdict.CONTINUE, reason=f"{counts.pairs} pairs do not decide yet")


def judge_probation(
    policy: ProbationPolicy, counters: Counters, *, compared: bool, watched_s: float, seen: bool
) -> Judgement:
    """Judge a candidate that answers.

    `compared`: stable shadows it, so that an error of both is the request's fault; else each one is the candidate's.
    `seen`: serving has just told its counters, with the candidate loaded; without it nothing passes.
    """
    shadow = judge_shadow(policy, counters.paired)
    if shadow.verdict is Verdict.FAIL:
        return shadow
    # With stable beside it an error of both says nothing; alone, nobody else can be to blame.
    if not compared and counters.request_errors > 0:
        reason = f"request_errors: {counters.request_errors} of {counters.requests}"
        return Judgement(verdict=Verdict.FAIL, reason=reason)
    if not seen or watched_s < policy.probation_s:
        return Judgement(verdict=Verdict.CONTINUE, reason=f"watched {watched_s:.0f} of {policy.probation_s:g} s")
    return Judgement(verdict=Verdict.PASS, reason=f"watched {watched_s:.0f} s")


def _share(*, trials: int, hits: int, margin: float, alpha: float) -> Verdict:
    """Extend `share_verdict` to margins that leave nothing to test: 0 allows no hit, 1 allows any number."""
    if margin <= 0.0:
        return Verdict.FAIL if hits > 0 else Verdict.PASS
    if margin >= 1.0:
        return Verdict.PASS
    return share_verdict(trials=trials, hits=hits, margin=margin, alpha=alpha)


def read_counters(stats: Stats, model: ModelName, candidate: ReleaseId) -> Counters:
    """Return what serving has counted for a candidate in this life."""
    paired = PairedCounts()
    for pair in stats.pairs:
        if pair.model == model and pair.candidate == candidate and not pair.by_rule:
            paired = add_paired(paired, pair.counts)
    for series in stats.series:
        if series.model == model and series.release_id == candidate:
            return Counters(
                paired=paired,
                requests=series.counts.get("requests", 0),
                request_errors=series.counts.get("request_errors", 0),
            )
    return Counters(paired=paired)


def absorb(evidence: Evidence, boot_id: BootId, reading: Counters) -> Evidence:
    """Take in a cumulative reading; one of a new life of serving is added to what the lives before had shown."""
    if evidence.boot_id == boot_id:
        return msgspec.structs.replace(evidence, now=reading)
    # A process that died took its last seconds of counters with it: that much is lost, and never counted twice.
    return Evidence(earlier=total(evidence), boot_id=boot_id, now=reading)


def total(evidence: Evidence) -> Counters:
    """Return all that an attempt has shown so far."""
    life = evidence.now if evidence.start == _NOTHING else _subtract(evidence.now, evidence.start)
    return life if evidence.earlier == _NOTHING else _add(evidence.earlier, life)


def add_paired(left: PairedCounts, right: PairedCounts) -> PairedCounts:
    """Return the sum of two comparisons."""
    return PairedCounts(
        pairs=left.pairs + right.pairs,
        flips=left.flips + right.flips,
        slower=left.slower + right.slower,
        candidate_errors=left.candidate_errors + right.candidate_errors,
    )


_NOTHING = Counters()


def _add(left: Counters, right: Counters) -> Counters:
    return Counters(
        paired=add_paired(left.paired, right.paired),
        requests=left.requests + right.requests,
        request_errors=left.request_errors + right.request_errors,
    )


def _subtract(now: Counters, start: Counters) -> Counters:
    """Return what came since `start`; a counter that went back (its slot was dropped meanwhile) counts from zero."""
    if now.requests < start.requests or now.paired.pairs < start.paired.pairs:
        return now
    return Counters(
        paired=PairedCounts(
            pairs=now.paired.pairs - start.paired.pairs,
            flips=max(now.paired.flips - start.paired.flips, 0),
            slower=max(now.paired.slower - start.paired.slower, 0),
            candidate_errors=max(now.paired.candidate_errors - start.paired.candidate_errors, 0),
        ),
        requests=now.requests - start.requests,
        request_errors=max(now.request_errors - start.request_errors, 0),
    )
