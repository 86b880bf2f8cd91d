from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from converters.judgement import doubts
from converters.judgement.judge import unfit
from shared.conversion import (
    AccuracyBudget,
    CheckOutcome,
    ConvertedArtifact,
    GateReport,
    GroupAccuracy,
    RuntimeCheck,
    RuntimeVersion,
)
from shared.hardware import GENERIC, HardwareProfile, Runtime
from shared.ids import HardwareProfileId
from shared.manifest import Accuracy, Scheme, digest
from tests.support.models import golden_check, random_classifier

if TYPE_CHECKING:
    from shared.manifest import GoldenCheck

MODEL = random_classifier(8, 4, seed=1)
BUDGET = AccuracyBudget()
CLASSES = tuple(
    GroupAccuracy(name=name, samples=samples, source=1.0, artifact=1.0)
    for name, samples in (("cat", 500), ("dog", 480), ("owl", 20))
)


def artifact(
    *,
    samples: int = 1000,
    agreement: float = 1.0,
    labelled: bool = True,
    refused: str = "",
    golden: GoldenCheck | None = None,
    runtimes: tuple[RuntimeCheck, ...] = (),
    confident: int = 100,
) -> ConvertedArtifact:
    return ConvertedArtifact(
        scheme=Scheme.FULL_INT8,
        path="/nowhere",
        sha256=digest(MODEL),
        length_bytes=len(MODEL),
        inputs=(),
        outputs=(),
        accuracy=Accuracy(samples=samples, source=0.9, artifact=0.9, agreement=agreement, labelled=labelled),
        max_abs_diff=0.0,
        latency_ms=1.0,
        golden=golden or golden_check(MODEL),
        report=GateReport(agreement=agreement, runtimes=runtimes, confident_samples=confident, classes=CLASSES),
        refused=refused,
    )


def test_artifact_of_which_enough_was_shown_raises_no_doubt() -> None:
    assert doubts.of_artifact(artifact(), BUDGET) == []


def test_artifact_judged_without_labels_is_said_to_be_faithful_and_not_right() -> None:
    (said,) = doubts.of_artifact(artifact(labelled=False), BUDGET)
    assert said == "full_int8: the data has no labels: it is shown to answer as its source, not to be right"


def test_agreement_of_few_samples_is_said_with_its_bound() -> None:
    _, said = doubts.of_artifact(artifact(labelled=False, samples=300, agreement=0.99), BUDGET)
    assert said.startswith("full_int8: 300 samples show an agreement of at least 97.")
    assert "98.00% is asked for" in said


def test_source_that_is_sure_of_nothing_makes_no_agreement_confident() -> None:
    _, said = doubts.of_artifact(artifact(labelled=False, confident=0), BUDGET)
    assert said == "full_int8: the source is sure of no answer, so that min_confident_agreement shows nothing"


def test_class_too_small_for_the_floor_that_is_asked_for_is_said_by_name() -> None:
    (said,) = doubts.of_artifact(artifact(), AccuracyBudget(max_class_drop=0.05))
    assert said == "full_int8: max_class_drop is not judged of 1 of 3 with fewer than 30 samples (owl)"


@pytest.mark.parametrize(
    ("outcome", "count"), [(CheckOutcome.NOT_CHECKED, 1), (CheckOutcome.PASSED, 0), (CheckOutcome.FAILED, 0)]
)
def test_runtime_that_nobody_could_try_is_said(outcome: CheckOutcome, count: int) -> None:
    check = RuntimeCheck(runtime=Runtime.AI_EDGE_LITERT, version="1.4.0", outcome=outcome, reason="not installed")
    said = doubts.of_artifact(artifact(runtimes=(check,)), BUDGET)
    assert said == ["full_int8: left to devices to try on ai-edge-litert 1.4.0: not installed"] * count


def test_old_runtime_that_nobody_could_try_is_no_doubt_but_a_refusal() -> None:
    check = RuntimeCheck(
        runtime=Runtime.TFLITE_RUNTIME, version="2.11.0", outcome=CheckOutcome.NOT_CHECKED, reason="not installed"
    )
    made = artifact(runtimes=(check,))
    assert doubts.of_artifact(made, BUDGET) == []
    old = HardwareProfile(
        profile_id=HardwareProfileId("old"), architectures=("armv7l",), runtime=Runtime.TFLITE_RUNTIME
    )
    fleet = (RuntimeVersion(runtime=Runtime.TFLITE_RUNTIME, version="2.11.0"),)
    assert unfit(made, old, fleet) == "runtime: tflite-runtime 2.11.0: not installed"
    assert unfit(made, GENERIC, fleet) == ""


def test_search_that_ran_out_of_time_says_so() -> None:
    assert "7 candidates" in doubts.of_time(7, 60.0)


def test_data_of_every_class_and_a_source_that_knows_them_raises_no_doubt() -> None:
    assert doubts.of_data("dataset.gate", 0.9, np.arange(40) % 4, 4) == []


def test_data_without_some_classes_is_said_by_their_numbers() -> None:
    said = doubts.of_data("dataset.gate", 0.9, np.array([0, 2] * 20), 12)
    assert said == ["dataset.gate: no sample of 10 of 12 classes (1, 3, 4, 5, 6, …)"]


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_data_on_which_a_constant_does_as_well_is_said(share: float) -> None:
    (said,) = doubts.of_data("dataset.gate", share, np.array([0, 1] * 20), 2)
    assert "always answering class 0 on 50.0%: are labels and pipeline those of the training?" in said


def test_data_of_yes_and_no_suits_one_output() -> None:
    assert doubts.of_data("dataset.gate", 0.9, np.array([0, 1]), 1) == []


def test_refused_artifact_needs_no_doubt() -> None:
    refused = artifact(samples=3, labelled=False, refused="accuracy_drop: bound 0.3 > 0.01")
    assert doubts.of_artifact(refused, BUDGET) == []


def test_golden_check_that_proves_little_is_said() -> None:
    blind = msgspec.structs.replace(golden_check(MODEL), atol=1.0)
    (said,) = doubts.of_artifact(artifact(golden=blind), BUDGET)
    assert said == "full_int8: its golden check would pass a model that always answers the same"
