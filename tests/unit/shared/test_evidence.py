from __future__ import annotations

import functools
import math
import random

import pytest

from shared.evidence import Verdict, evidence_above, evidence_below, share_verdict

RUNS = 200
LOOKS = 80


def false_verdicts(share: float, margin: float, alpha: float, wrong: Verdict) -> float:
    """Share of runs that ever say `wrong`, looking after every single observation."""
    # The runs pass through the same few counts over and over.
    verdict = functools.cache(share_verdict)
    generator = random.Random(20261122)
    bad = 0
    for _ in range(RUNS):
        hits = 0
        for trials in range(1, LOOKS + 1):
            hits += generator.random() < share
            if verdict(trials=trials, hits=hits, margin=margin, alpha=alpha) is wrong:
                bad += 1
                break
    return bad / RUNS


def test_share_at_its_margin_fails_no_more_often_than_alpha_under_constant_peeking() -> None:
    assert false_verdicts(share=0.1, margin=0.1, alpha=0.05, wrong=Verdict.FAIL) <= 0.05


def test_share_at_its_margin_passes_no_more_often_than_alpha_under_constant_peeking() -> None:
    assert false_verdicts(share=0.1, margin=0.1, alpha=0.05, wrong=Verdict.PASS) <= 0.05


@pytest.mark.parametrize(
    ("trials", "hits", "expected"),
    [
        (0, 0, Verdict.CONTINUE),
        (10, 0, Verdict.CONTINUE),
        (60, 0, Verdict.PASS),
        (30, 20, Verdict.FAIL),
        (2, 2, Verdict.FAIL),
    ],
)
def test_share_verdict_with_counts_says_expected(trials: int, hits: int, expected: Verdict) -> None:
    assert share_verdict(trials=trials, hits=hits, margin=0.1, alpha=0.05) is expected


def test_two_failures_of_two_stop_at_two_percent_and_alpha_one_percent() -> None:
    assert evidence_above(trials=2, hits=2, share=0.02) >= 100
    assert evidence_above(trials=1, hits=1, share=0.02) < 100


def test_evidence_is_one_before_anything_was_seen() -> None:
    assert evidence_above(trials=0, hits=0, share=0.3) == pytest.approx(1.0)
    assert evidence_below(trials=0, hits=0, share=0.3) == pytest.approx(1.0)


def test_evidence_of_a_million_hits_does_not_overflow() -> None:
    assert evidence_above(trials=10**6, hits=10**6, share=0.5) > 1e100


@pytest.mark.parametrize(("hits", "verdict"), [(0, Verdict.CONTINUE), (1, Verdict.FAIL), (50, Verdict.FAIL)])
def test_share_that_must_be_nothing_fails_at_the_first_hit_and_never_passes(hits: int, verdict: Verdict) -> None:
    assert share_verdict(trials=50, hits=hits, margin=0.0, alpha=0.05) is verdict


@pytest.mark.parametrize(("hits", "verdict"), [(50, Verdict.CONTINUE), (49, Verdict.PASS), (0, Verdict.PASS)])
def test_share_that_may_be_all_never_fails(hits: int, verdict: Verdict) -> None:
    assert share_verdict(trials=50, hits=hits, margin=1.0, alpha=0.05) is verdict


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_evidence_of_no_trials_is_none(share: float) -> None:
    assert evidence_above(trials=0, hits=0, share=share) == pytest.approx(1.0)
    assert evidence_below(trials=0, hits=0, share=share) == pytest.approx(1.0)


def test_evidence_of_a_million_trials_is_a_number() -> None:
    assert math.isfinite(evidence_above(trials=10**6, hits=10**6, share=0.1))
    assert math.isfinite(evidence_below(trials=10**6, hits=0, share=0.1))
