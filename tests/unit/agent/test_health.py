from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import health
from agent.core.plan import PairStats, SeriesStats, Stats
from agent.core.state import Counters, Evidence
from shared.evidence import Verdict
from shared.ids import BootId, ModelName, ReleaseId
from shared.wire import PairedCounts, ProbationPolicy

POLICY = ProbationPolicy()
A, B = BootId("a"), BootId("b")
M, V2 = ModelName("digits"), ReleaseId("v2")


@pytest.mark.parametrize(
    ("counts", "verdict", "word"),
    [
        (PairedCounts(), Verdict.CONTINUE, "0 of 30 pairs"),
        (PairedCounts(pairs=29), Verdict.CONTINUE, "29 of 30 pairs"),
        (PairedCounts(pairs=29, flips=29), Verdict.CONTINUE, "29 of 30 pairs"),
        (PairedCounts(pairs=1, candidate_errors=1), Verdict.FAIL, "candidate_errors: 1"),
        (PairedCounts(pairs=30, flips=30), Verdict.FAIL, "flip_rate"),
        (PairedCounts(pairs=40, slower=40), Verdict.FAIL, "latency_ratio"),
        (PairedCounts(pairs=120, flips=2, slower=5), Verdict.PASS, "120 pairs"),
        (PairedCounts(pairs=40, flips=4), Verdict.CONTINUE, "40 pairs do not decide yet"),
    ],
)
def test_shadow_verdict_follows_counts(counts: PairedCounts, verdict: Verdict, word: str) -> None:
    judged = health.judge_shadow(POLICY, counts)
    assert (judged.verdict, judged.reason.startswith(word)) == (verdict, True)


@pytest.mark.parametrize(
    ("margin", "flips", "verdict"),
    [(0.0, 0, Verdict.PASS), (0.0, 1, Verdict.FAIL), (1.0, 100, Verdict.PASS)],
)
def test_shadow_verdict_with_margins_that_leave_nothing_to_test(margin: float, flips: int, verdict: Verdict) -> None:
    policy = ProbationPolicy(max_flip_rate=margin)
    assert health.judge_shadow(policy, PairedCounts(pairs=100, flips=flips)).verdict is verdict


@given(st.integers(0, 29), st.integers(0, 29), st.integers(0, 29))
def test_shadow_never_passes_below_the_minimum_of_pairs(pairs: int, flips: int, slower: int) -> None:
    counts = PairedCounts(pairs=pairs, flips=min(flips, pairs), slower=min(slower, pairs))
    assert health.judge_shadow(POLICY, counts).verdict is Verdict.CONTINUE


def test_shadow_of_an_equal_candidate_rarely_fails_however_often_one_looks() -> None:
    chance = random.Random(7)
    failed = 0
    for _ in range(60):
        flips = slower = 0
        for pairs in range(1, 121):
            flips += chance.random() < 0.05
            slower += chance.random() < 0.3
            judged = None
            if pairs % 6 == 0:
                judged = health.judge_shadow(POLICY, PairedCounts(pairs=pairs, flips=flips, slower=slower))
            if judged is not None and judged.verdict is Verdict.FAIL:
                failed += 1
                break
    assert failed <= 60 * 2 * POLICY.alpha


@pytest.mark.parametrize(
    ("counters", "compared", "watched_s", "seen", "verdict"),
    [
        (Counters(), True, 11.0, True, Verdict.PASS),
        (Counters(), True, 11.0, False, Verdict.CONTINUE),
        (Counters(), True, 9.0, True, Verdict.CONTINUE),
        (Counters(requests=9, request_errors=1), False, 1.0, False, Verdict.FAIL),
        (Counters(requests=9, request_errors=1), True, 11.0, True, Verdict.PASS),
        (Counters(paired=PairedCounts(pairs=9, candidate_errors=1)), True, 1.0, False, Verdict.FAIL),
        (Counters(paired=PairedCounts(pairs=60, flips=50)), True, 99.0, True, Verdict.FAIL),
    ],
)
def test_probation_verdict_follows_counters_and_time(
    counters: Counters, *, compared: bool, watched_s: float, seen: bool, verdict: Verdict
) -> None:
    judged = health.judge_probation(POLICY, counters, compared=compared, watched_s=watched_s, seen=seen)
    assert judged.verdict is verdict


def test_counters_are_read_for_the_candidate_alone() -> None:
    def pair(candidate: str, pairs: int) -> PairStats:
        stable = ReleaseId("v1")
        return PairStats(model=M, candidate=ReleaseId(candidate), stable=stable, counts=PairedCounts(pairs=pairs))

    series = tuple(
        SeriesStats(model=M, release_id=ReleaseId(name), counts={"requests": number, "request_errors": 1})
        for name, number in (("v1", 5), ("v2", 6))
    )
    stats = Stats(boot_id=A, series=series, pairs=(pair("v2", 3), pair("v3", 50), pair("v2", 4)))
    assert health.read_counters(stats, M, V2) == Counters(paired=PairedCounts(pairs=7), requests=6, request_errors=1)
    assert health.read_counters(stats, M, ReleaseId("v9")) == Counters()


def reading(pairs: int) -> Counters:
    return Counters(paired=PairedCounts(pairs=pairs), requests=pairs)


def test_evidence_is_the_newest_reading_of_each_life() -> None:
    evidence = Evidence()
    for boot, pairs in ((A, 3), (A, 5), (B, 2), (B, 2), (B, 4)):
        evidence = health.absorb(evidence, boot, reading(pairs))
    assert health.total(evidence) == reading(9)


def test_evidence_starts_where_the_counters_stood() -> None:
    evidence = Evidence(boot_id=A, start=reading(10), now=reading(10))
    assert health.total(evidence) == Counters()
    assert health.total(health.absorb(evidence, A, reading(13))) == reading(3)
    assert health.total(health.absorb(evidence, B, reading(2))) == reading(2)


def test_evidence_counts_from_zero_when_serving_forgot_the_slot() -> None:
    evidence = Evidence(boot_id=A, start=reading(10), now=reading(10))
    assert health.total(health.absorb(evidence, A, reading(4))) == reading(4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=30))
def test_evidence_never_shrinks(steps: list[tuple[bool, int]]) -> None:
    evidence, counters, life, told = Evidence(), 0, 0, 0
    for dies, more in steps:
        life, counters = (life + 1, more) if dies else (life, counters + more)
        evidence = health.absorb(evidence, BootId(str(life)), reading(counters))
        assert health.total(evidence).requests >= told
        told = health.total(evidence).requests
    assert told == sum(more for _, more in steps)
