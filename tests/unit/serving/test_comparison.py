from __future__ import annotations

import numpy as np
import pytest

from agent.serving.requests import Moments, Outcome
from agent.serving.traffic.comparison import PairTally, differs
from shared.errors import ModelFailedError, PipelineError


def outcome(*values: float, top: str = "", compute_ms: float = 1.0) -> Outcome:
    return Outcome(
        outputs=(),
        labels=(),
        top=top,
        confidence=None,
        values=np.array(values, dtype=np.float64),
        invoke_ms=compute_ms,
        compute_ms=compute_ms,
        moments=Moments(began_s=0.0, invoked_s=0.0, ended_s=0.0, runs=1),
    )


def test_classifiers_that_agree_on_the_best_label_do_not_differ_however_far_their_scores_are() -> None:
    assert not differs(outcome(0.9, 0.1, top="cat"), outcome(0.6, 0.4, top="cat"))


def test_classifiers_with_another_best_label_differ() -> None:
    assert differs(outcome(0.51, 0.49, top="cat"), outcome(0.49, 0.51, top="dog"))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((100.0,), (100.9,), False),
        ((100.0,), (102.0,), True),
        ((-100.0,), (-98.0,), True),
        ((100.0, 0.001), (100.0, 0.5), False),  # near zero beside a large number: one percent of the larger one
        ((0.0,), (0.0,), False),
        ((), (), False),
        ((1.0,), (1.0, 2.0), True),
    ],
)
def test_numbers_differ_beyond_one_percent(ours: tuple[float, ...], theirs: tuple[float, ...], expected: bool) -> None:
    assert differs(outcome(*ours), outcome(*theirs)) is expected


def test_pair_with_a_slower_candidate_counts_as_slower_only_beyond_the_ratio() -> None:
    tally = PairTally()
    tally.count(candidate=outcome(1.0, compute_ms=2.0), stable=outcome(1.0, compute_ms=1.0), max_ratio=2.0)
    tally.count(candidate=outcome(1.0, compute_ms=2.1), stable=outcome(1.0, compute_ms=1.0), max_ratio=2.0)
    assert (tally.pairs, tally.slower, tally.flips) == (2, 1, 0)


@pytest.mark.parametrize("failure", [ModelFailedError("broke"), PipelineError("another input shape")])
def test_pair_in_which_only_the_candidate_failed_counts_its_error(failure: PipelineError) -> None:
    tally = PairTally()
    tally.count(candidate=failure, stable=outcome(1.0), max_ratio=2.0)
    assert (tally.pairs, tally.candidate_errors, tally.flips) == (1, 1, 0)


def test_pair_in_which_the_candidate_answers_nan_counts_as_its_error() -> None:
    tally = PairTally()
    tally.count(candidate=outcome(float("nan")), stable=outcome(1.0), max_ratio=2.0)
    assert (tally.pairs, tally.candidate_errors) == (1, 1)


def test_pair_in_which_stable_failed_is_no_pair() -> None:
    tally = PairTally()
    tally.count(candidate=ModelFailedError("broke"), stable=ModelFailedError("broke"), max_ratio=2.0)
    tally.count(candidate=outcome(1.0), stable=ModelFailedError("broke"), max_ratio=2.0)
    assert tally.frozen().pairs == 0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("top", ["", "0"])
def test_attack_request_that_makes_both_answer_nonsense_counts_no_flip(number: float, top: str) -> None:
    tally = PairTally()
    tally.count(candidate=outcome(number, 1.0, top=top), stable=outcome(number, 1.0, top=top), max_ratio=2.0)
    assert (tally.flips, tally.candidate_errors) == (0, 0)


def test_attack_request_that_makes_both_answer_nan_is_no_evidence_for_the_candidate() -> None:
    nan, tally = float("nan"), PairTally()
    tally.count(candidate=outcome(nan, nan, top="0"), stable=outcome(nan, nan, top="0"), max_ratio=2.0)
    tally.count(candidate=outcome(nan), stable=outcome(nan), max_ratio=2.0)
    assert tally.pairs == 0


def test_classifiers_with_infinite_logits_are_compared_by_their_labels() -> None:
    masked, tally = float("-inf"), PairTally()
    tally.count(candidate=outcome(masked, 2.0, top="1"), stable=outcome(masked, 1.0, top="1"), max_ratio=2.0)
    tally.count(candidate=outcome(2.0, masked, top="0"), stable=outcome(masked, 1.0, top="1"), max_ratio=2.0)
    assert (tally.pairs, tally.flips) == (2, 1)
