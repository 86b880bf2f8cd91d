from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from converters import gate, golden_cases, parity
from shared.conversion import ConvertedArtifact
from shared.manifest import Accuracy, GoldenCase, GoldenCheck, Scheme, digest
from shared.runtime.golden import check_golden, to_tensor_data
from shared.runtime.interpreter import Kernels, LiteRtInterpreter
from tests.support.models import dense_classifier, golden_check, one_hot_classifier, random_classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES = np.random.default_rng(1).random((200, 10)).astype(np.float32)
LABELS: NDArray[np.int64] = SCORES.argmax(axis=1).astype(np.int64)


def with_wrong(count: int) -> NDArray[np.float32]:
    scores = SCORES.copy()
    scores[:count] = np.roll(scores[:count], 1, axis=1)
    return scores


def artifact(scheme: Scheme, *, drop: float, refused: str) -> ConvertedArtifact:
    model = one_hot_classifier(3)
    return ConvertedArtifact(
        scheme=scheme,
        path="/nowhere",
        sha256=digest(model),
        length_bytes=len(model),
        inputs=(),
        outputs=(),
        accuracy=Accuracy(samples=10, source=0.9, artifact=0.9 - drop, agreement=1.0),
        max_abs_diff=0.0,
        latency_ms=1.0,
        golden=golden_check(model),
        refused=refused,
    )


def test_accuracy_counts_right_answers_of_both_sides() -> None:
    measured = gate.accuracy(SCORES, with_wrong(20), LABELS)
    assert measured == Accuracy(samples=200, source=1.0, artifact=0.9, agreement=0.9)


def test_accuracy_of_nan_answers_counts_as_wrong() -> None:
    broken = SCORES.copy()
    broken[:50] = np.nan
    assert gate.accuracy(SCORES, broken, LABELS).artifact == 0.75


@pytest.mark.parametrize(("wrong", "refused"), [(0, ""), (2, ""), (3, "accuracy_drop: 0.015 > 0.010")])
def test_gate_refuses_only_beyond_the_margin(wrong: int, refused: str) -> None:
    assert gate.refusal(gate.accuracy(SCORES, with_wrong(wrong), LABELS), 0.01) == refused


def test_gate_better_artifact_is_not_refused() -> None:
    assert gate.refusal(gate.accuracy(with_wrong(20), SCORES, LABELS), 0.0) == ""


def test_closest_names_the_least_loss() -> None:
    made = [
        artifact(Scheme.FULL_INT8, drop=0.3, refused="accuracy_drop: 0.300 > 0.010"),
        artifact(Scheme.DYNAMIC_INT8, drop=0.03, refused="accuracy_drop: 0.030 > 0.010"),
    ]
    assert gate.closest(made) == "dynamic_int8 came closest: accuracy_drop: 0.030 > 0.010"


@pytest.mark.parametrize("scheme", list(Scheme))
def test_parity_same_answers_pass_in_every_scheme(scheme: Scheme) -> None:
    assert parity.refusal(parity.compare(SCORES, SCORES), scheme, 200) == ""


@pytest.mark.parametrize("scheme", list(Scheme))
def test_parity_lost_weights_are_refused_in_every_scheme(scheme: Scheme) -> None:
    # A network without weights says the same of everything.
    lost = np.full_like(SCORES, 0.1)
    assert parity.refusal(parity.compare(SCORES, lost), scheme, 200).startswith("output_mismatch: ")


@pytest.mark.parametrize("scheme", list(Scheme))
def test_parity_nan_answers_are_refused_in_every_scheme(scheme: Scheme) -> None:
    broken = SCORES.copy()
    broken[7, 3] = np.inf
    compared = parity.compare(SCORES, broken)
    assert compared.max_abs_diff is None
    refused = parity.refusal(compared, scheme, 200)
    assert refused == "nan_outputs: 1 of 200 answers are NaN or infinite"


@pytest.mark.parametrize(
    ("scheme", "passes"), [(Scheme.FLOAT32, False), (Scheme.FLOAT16, True), (Scheme.FULL_INT8, True)]
)
def test_parity_one_answer_off_by_a_hundredth_passes_by_scheme(scheme: Scheme, passes: bool) -> None:
    moved = SCORES.copy()
    moved[5, 5] += 0.01
    assert (parity.refusal(parity.compare(SCORES, moved), scheme, 200) == "") is passes


def test_parity_source_that_never_varies_is_compared_by_size() -> None:
    constant = np.full((5, 3), 0.5, np.float32)
    assert parity.refusal(parity.compare(constant, constant), Scheme.FULL_INT8, 5) == ""
    assert parity.refusal(parity.compare(constant, -constant), Scheme.FULL_INT8, 5)


def test_golden_choice_takes_typical_of_each_class_and_undecided_in_turn() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2], np.int64)
    scores = np.array([[0.9, 0], [0.8, 0], [0.1, 0], [0, 0.7], [0, 0.2], [0, 0.9]], np.float32)
    assert golden_cases.choose(labels, scores, 4) == [0, 2, 3, 4]
    assert sorted(golden_cases.choose(labels, scores, 99)) == [0, 1, 2, 3, 4, 5]


def test_golden_choice_of_one_score_takes_those_near_one_half() -> None:
    scores = np.array([[0.99], [0.01], [0.52], [0.9]], np.float32)
    assert golden_cases.choose(np.array([1, 0, 1, 1], np.int64), scores, 2) == [1, 2]


def test_golden_choice_leaves_the_closest_to_the_end() -> None:
    lead = np.linspace(0, 1, 200, dtype=np.float32)
    scores = np.stack([lead, np.zeros_like(lead)], axis=1)
    chosen = golden_cases.choose(np.zeros(200, np.int64), scores, 6)
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
