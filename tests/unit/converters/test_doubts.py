from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from converters import doubts
from shared.conversion import ConvertedArtifact
from shared.errors import InvalidInputError
from shared.manifest import Accuracy, Scheme, digest
from tests.support.models import golden_check, random_classifier

if TYPE_CHECKING:
    from shared.manifest import GoldenCheck

MODEL = random_classifier(8, 4, seed=1)
ITEMS = list(np.random.default_rng(1).random((50, 4), dtype=np.float32))
OTHERS = list(np.random.default_rng(2).random((50, 4), dtype=np.float32))


def accuracy(samples: int, *, drop: float = 0.0, differing: float = 0.0) -> Accuracy:
    return Accuracy(samples=samples, source=0.9, artifact=0.9 - drop, agreement=1 - differing)


def artifact(measured: Accuracy, *, refused: str = "", golden: GoldenCheck | None = None) -> ConvertedArtifact:
    return ConvertedArtifact(
        scheme=Scheme.FULL_INT8,
        path="/nowhere",
        sha256=digest(MODEL),
        length_bytes=len(MODEL),
        inputs=(),
        outputs=(),
        accuracy=measured,
        max_abs_diff=0.0,
        latency_ms=1.0,
        golden=golden or golden_check(MODEL),
        refused=refused,
    )


def test_overlap_of_data_that_shares_nothing_is_silent() -> None:
    assert doubts.overlap(ITEMS, OTHERS) == ""


def test_overlap_of_a_few_items_is_said() -> None:
    assert doubts.overlap(ITEMS, [*OTHERS, *ITEMS[:3]]) == "evaluation: 3 of 53 items are also in the calibration data"


@pytest.mark.parametrize("leaked", [10, 50])
def test_overlap_of_many_items_is_refused(leaked: int) -> None:
    with pytest.raises(InvalidInputError, match=r"evaluation\.x: .* also in the calibration data \(.*split"):
        doubts.overlap(ITEMS, [*OTHERS[: 60 - leaked], *ITEMS[:leaked]])


def test_overlap_is_seen_through_other_memory_layouts() -> None:
    with pytest.raises(InvalidInputError):
        doubts.overlap([np.asfortranarray(item) for item in ITEMS], [item[::1] for item in ITEMS])


def test_data_of_every_class_and_a_source_that_knows_them_raises_no_doubt() -> None:
    assert doubts.of_data(0.9, np.arange(40) % 4, 4) == []


def test_data_without_some_classes_is_said_by_their_numbers() -> None:
    said = doubts.of_data(0.9, np.array([0, 2] * 20), 12)
    assert said == ["evaluation: no sample of 10 of 12 classes (1, 3, 4, 5, 6, …)"]


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_data_on_which_a_constant_does_as_well_is_said(share: float) -> None:
    (said,) = doubts.of_data(share, np.array([0, 1] * 20), 2)
    assert "always answering class 0 on 50.0%: are labels and pipeline those of the training?" in said


def test_data_of_yes_and_no_suits_one_output() -> None:
    assert doubts.of_data(0.9, np.array([0, 1]), 1) == []


@pytest.mark.parametrize(
    ("samples", "drop", "differing", "certified"),
    [
        (299, 0.0, 0.0, True),
        (298, 0.0, 0.0, False),
        (40, 0.0, 0.0, False),
        (797, 0.0, 0.004, True),
        (300, 0.0, 0.08, False),
        (2000, 0.005, 0.01, True),
        (2000, 0.007, 0.01, False),
    ],
)
def test_margin_of_one_point_is_certified_by_enough_samples_only(
    samples: int, drop: float, differing: float, certified: bool
) -> None:
    said = doubts.of_artifact(artifact(accuracy(samples, drop=drop, differing=differing)), 0.01)
    assert (said == []) is certified
    assert all(f"full_int8: {samples} samples show an accuracy drop below" in line for line in said)


def test_drop_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    samples, lost, won = 400, 0.03, 0.02
    counts = rng.multinomial(samples, [lost, won, 1 - lost - won], size=4000)
    bounds = [
        doubts.drop_bound(accuracy(samples, drop=(a - b) / samples, differing=(a + b) / samples)) for a, b, _ in counts
    ]
    assert np.mean(np.array(bounds) < lost - won) < 0.07


def test_refused_artifact_needs_no_doubt() -> None:
    assert doubts.of_artifact(artifact(accuracy(3), refused="accuracy_drop: 0.3 > 0.01"), 0.01) == []


def test_golden_check_that_proves_little_is_said() -> None:

    blind = msgspec.structs.replace(golden_check(MODEL), atol=1.0)
    (said,) = doubts.of_artifact(artifact(accuracy(1000), golden=blind), 0.01)
    assert said == "full_int8: its golden check would pass a model that always answers the same"
