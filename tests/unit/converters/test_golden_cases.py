from __future__ import annotations

import msgspec
import numpy as np
import pytest

from converters.judgement import golden_cases
from shared.manifest import GoldenCase, GoldenCheck, Scheme
from shared.runtime.golden import check_golden, to_tensor_data
from shared.runtime.interpreter import Kernels, LiteRtInterpreter
from tests.support.models import dense_classifier, one_hot_classifier, random_classifier


def test_golden_choice_takes_typical_of_each_class_and_undecided_in_turn() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2], np.int64)
    scores = np.array([[0.9, 0], [0.8, 0], [0.1, 0], [0, 0.7], [0, 0.2], [0, 0.9]], np.float32)
    leads = golden_cases.lead(scores)
    assert golden_cases.choose(labels, leads, 4) == [0, 2, 3, 4]
    assert sorted(golden_cases.choose(labels, leads, 99)) == [0, 1, 2, 3, 4, 5]


def test_golden_choice_of_one_score_takes_those_near_one_half() -> None:
    scores = np.array([[0.99], [0.01], [0.52], [0.9]], np.float32)
    assert golden_cases.choose(np.array([1, 0, 1, 1], np.int64), golden_cases.lead(scores), 2) == [1, 2]


def test_golden_choice_leaves_the_closest_to_the_end() -> None:
    lead = np.linspace(0, 1, 200, dtype=np.float32)
    scores = np.stack([lead, np.zeros_like(lead)], axis=1)
    chosen = golden_cases.choose(np.zeros(200, np.int64), golden_cases.lead(scores), 6)
    assert chosen == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(("answers", "blind"), [((0.5, 0.55), True), ((0.1, 0.9), False), ((0.4,), True)])
def test_golden_check_that_a_constant_would_pass_is_blind(answers: tuple[float, ...], blind: bool) -> None:
    cases = tuple(
        GoldenCase(inputs=(), outputs=(to_tensor_data(np.array([[answer, 0]], np.float32)),)) for answer in answers
    )
    assert golden_cases.is_blind(GoldenCheck(cases=cases, atol=0.05, rtol=0.0)) is blind


def test_golden_check_of_answers_that_are_no_numbers_is_refused_and_fits_json() -> None:
    model = dense_classifier(np.full((3, 2), np.nan, np.float32), np.zeros(2, np.float32), softmax=False)
    check, refused = golden_cases.make(model, [np.ones(3, np.float32)], Scheme.FLOAT32)
    assert refused.startswith("kernels_disagree: ")
    assert msgspec.json.decode(msgspec.json.encode(check), type=GoldenCheck).atol == 0.0


@pytest.mark.parametrize("kernels", list(Kernels))
def test_golden_check_made_holds_on_every_kind_of_kernels(kernels: Kernels) -> None:
    model = random_classifier(16, 5, seed=4)
    inputs = list(np.random.default_rng(4).random((6, 16), dtype=np.float32))
    check, refused = golden_cases.make(model, inputs, Scheme.FLOAT32)
    assert refused == ""
    assert check_golden(LiteRtInterpreter(model, threads=1, kernels=kernels), check) == ""


@pytest.mark.parametrize("scheme", list(Scheme))
def test_golden_check_made_does_not_hold_for_an_artifact_of_another_training(scheme: Scheme) -> None:
    inputs = list(np.eye(5, dtype=np.float32))
    check, _ = golden_cases.make(one_hot_classifier(5), inputs, scheme)
    assert check_golden(LiteRtInterpreter(one_hot_classifier(5, shift=1), threads=1), check)
