"""What a shadow shows: a planted difference is found, and one that is not there is not, however long one looks.

The bounds are exact: a null is called a difference with a chance of at most 2.5 % over all looks together (Ville), so
that of 100 worlds more than 8 are with a chance below 0.2 % (binomial).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.serving.requests import Outcome
from agent.serving.traffic.comparison import (
    ALPHA,
    DISTANCES,
    FLIPS_ALLOWED,
    RATIOS,
    PairTally,
    distance,
    judged,
)
from shared.evidence import Verdict
from tests.unit.serving.test_comparison import outcome

if TYPE_CHECKING:
    from collections.abc import Callable

WORLDS = 100
LOOKS = tuple(sorted({int(25 * 1.2**step) for step in range(21)}))
"""After so many pairs somebody looks; the last time after 958."""
MOST_FALSE = 8


def first_verdicts(seed: int, *, flips: float = 0.0, slower: float = 1.0) -> tuple[Verdict, Verdict]:
    """Return the verdicts on answers and times at which somebody who looks again and again would have stopped.

    Times of both are drawn alike, with the noise of a busy device (a third of an octave), before one is made slower.
    """
    rng, tally = np.random.default_rng(seed), PairTally()
    answers = times = Verdict.CONTINUE
    for look in LOOKS:
        fresh = look - tally.pairs
        tally.pairs = look
        tally.flips += int(rng.binomial(fresh, flips))
        ratios = slower * 2.0 ** (rng.normal(0.0, 0.33, fresh) - rng.normal(0.0, 0.33, fresh))
        bins = np.bincount(np.searchsorted(RATIOS, ratios), minlength=len(tally.ratios))
        tally.ratios = [had + int(more) for had, more in zip(tally.ratios, bins, strict=True)]
        now = judged(tally)
        answers = now[0] if answers is Verdict.CONTINUE else answers
        times = now[1] if times is Verdict.CONTINUE else times
    return answers, times


def counted(verdict: Callable[[int], Verdict], wanted: Verdict) -> int:
    return sum(verdict(seed) is wanted for seed in range(WORLDS))


def test_planted_flips_of_five_percent_are_found() -> None:
    assert counted(lambda seed: first_verdicts(seed, flips=0.05)[0], Verdict.FAIL) >= 98


def test_flips_that_are_just_allowed_are_called_a_difference_as_rarely_as_promised() -> None:
    found = counted(lambda seed: first_verdicts(seed, flips=FLIPS_ALLOWED)[0], Verdict.FAIL)
    assert found <= MOST_FALSE


def test_releases_that_answer_alike_are_called_so() -> None:
    assert counted(lambda seed: first_verdicts(seed)[0], Verdict.PASS) == WORLDS


def test_planted_slowness_of_half_as_much_again_is_found() -> None:
    assert counted(lambda seed: first_verdicts(seed, slower=1.5)[1], Verdict.FAIL) >= 98


def test_times_that_differ_by_noise_alone_are_not_called_slower() -> None:
    found = [first_verdicts(seed)[1] for seed in range(WORLDS)]
    assert (found.count(Verdict.FAIL), found.count(Verdict.PASS) >= 97) == (0, True)


def test_times_that_are_just_allowed_are_called_slower_as_rarely_as_promised() -> None:
    assert counted(lambda seed: first_verdicts(seed, slower=2.0**0.25)[1], Verdict.FAIL) <= MOST_FALSE
    assert ALPHA == 0.025


def test_error_of_the_candidate_alone_counts_as_a_different_answer() -> None:
    tally = PairTally()
    for _ in range(40):
        tally.count(candidate=outcome(float("nan")), stable=outcome(1.0), max_ratio=2.0)
    assert judged(tally) == (Verdict.FAIL, Verdict.CONTINUE)


# --- histograms ---


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((0.9, 0.1), (0.9, 0.1), 0.0),
        ((0.9, 0.1), (0.6, 0.4), 0.3),
        ((1.0, 0.0), (0.0, 1.0), 1.0),
        ((0.9, 0.9), (0.9, 0.0), 0.9 / 1.35 / 2),  # several labels at once: in relation to what they add up to
    ],
)
def test_distance_of_classifiers_is_total_variation(
    ours: tuple[float, ...], theirs: tuple[float, ...], expected: float
) -> None:
    assert distance(_shares(*ours), _shares(*theirs)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((100.0, 1.0), (98.0, 1.0), 0.02),
        ((5.0,), (-5.0,), 2.0),
        ((0.0,), (0.0,), 0.0),
        ((), (), 0.0),
        ((1.0,), (1.0, 2.0), float("inf")),
        ((float("-inf"), 1.0), (float("-inf"), 1.0), 0.0),
        ((float("-inf"), 1.0), (float("-inf"), 2.0), float("inf")),
    ],
)
def test_distance_of_other_answers_is_the_largest_in_relation_to_their_size(
    ours: tuple[float, ...], theirs: tuple[float, ...], expected: float
) -> None:
    assert distance(outcome(*ours), outcome(*theirs)) == pytest.approx(expected)


def _shares(*values: float) -> Outcome:
    made = outcome(*values, top=str(int(np.argmax(values))))
    return Outcome(**{name: getattr(made, name) for name in Outcome.__slots__} | {"confidence": max(values)})


def test_every_pair_that_both_answered_is_in_one_bin_of_each_histogram() -> None:
    tally, rng = PairTally(), random.Random(5)
    for _ in range(500):
        ours, theirs = (outcome(2.0 ** rng.gauss(0, 3), compute_ms=2.0 ** rng.gauss(0, 3)) for _ in range(2))
        tally.count(candidate=ours, stable=theirs, max_ratio=2.0)
    tally.count(candidate=outcome(float("nan")), stable=outcome(1.0), max_ratio=2.0)
    assert (sum(tally.distances), sum(tally.ratios), tally.pairs) == (500, 500, 501)
    assert (len(tally.distances), len(tally.ratios)) == (len(DISTANCES) + 1, len(RATIOS) + 1)
    assert min(tally.ratios[0], tally.ratios[-1]) > 0


def test_ratio_lies_in_the_bin_below_its_upper_edge() -> None:
    tally = PairTally()
    for ratio in (0.1, 1.0, 1.5, 9.0):
        tally.count(candidate=outcome(1.0, compute_ms=ratio), stable=outcome(1.0, compute_ms=1.0), max_ratio=2.0)
    bins = [place for place, count in enumerate(tally.ratios) if count]
    assert [RATIOS[place] if place < len(RATIOS) else None for place in bins] == [0.25, 1.0, 2.0**0.75, None]


def test_pair_that_shared_its_time_counts_its_answer_and_not_its_time() -> None:
    tally = PairTally()
    tally.count(candidate=outcome(1.0, compute_ms=9.0), stable=outcome(1.0), max_ratio=2.0, is_timed=False)
    assert (tally.pairs, tally.slower, sum(tally.ratios), sum(tally.distances)) == (1, 0, 0, 1)


def test_clock_that_did_not_move_makes_nobody_slower() -> None:
    tally = PairTally()
    tally.count(candidate=outcome(1.0, compute_ms=0.0), stable=outcome(1.0, compute_ms=0.0), max_ratio=2.0)
    assert (tally.slower, judged(tally)[1]) == (0, Verdict.CONTINUE)
