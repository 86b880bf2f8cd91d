"""scikit-learn pipelines: decided as by scikit-learn, through the worker too, and refused where they cannot be."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typing_extensions import override

from converters.environments import Environment
from converters.failures import ConversionFailedError
from converters.frontends.frontend import FrontendRequest
from converters.frontends.process import Worker
from shared.conversion import FailureKind, SourceFormat
from tests.support.workers import environment, run_maker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)
BOTH = ("1", "any")
OF_CLASSES = [
    "logistic",
    "network",
    "svm_rbf",
    "svm_poly",
    "svm_linear",
    "linear_svm",
    "sgd",
    "ridge",
    "bayes",
    "tree",
    "forest",
    "extra_trees",
    "whitened_forest",
    "selected_forest",
    "boosting",
    "histogram_boosting",
]
OF_NUMBERS = [
    "linear",
    "lasso",
    "polynomial",
    "svr",
    "network",
    "tree",
    "forest",
    "boosting",
    "histogram_boosting",
    "poisson",
]
CASES = [
    *(f"{data}_{name}_{batch}" for data in ("digits", "cancer", "iris") for name in OF_CLASSES for batch in BOTH),
    *(f"diabetes_{name}_{batch}" for name in OF_NUMBERS for batch in BOTH),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sklearn")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, dict[str, float]]:
    told: dict[str, dict[str, float]] = json.loads(run_maker(Environment.JAX, "sklearn_decisions", str(folder)))
    return told


def test_every_estimator_was_tried_on_every_data_set(found: dict[str, dict[str, float]]) -> None:
    assert sorted(found) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_emitted_pipeline_decides_as_scikit_learn(found: dict[str, dict[str, float]], case: str) -> None:
    assert found[case]["decisions"] == 1.0
    assert found[case]["difference"] <= 1e-5


def test_forest_by_look_up_is_a_fraction_of_the_same_by_products(found: dict[str, dict[str, float]]) -> None:
    assert found["digits_forest_1"]["size_bytes"] < found["digits_forest_any"]["size_bytes"] / 5


@pytest.mark.usefixtures("found")
def test_same_pipeline_in_two_processes_gives_the_same_bytes(folder: Path) -> None:
    names = [*(f"iris_{name}" for name in OF_CLASSES), *(f"diabetes_{name}" for name in OF_NUMBERS)]
    cases = [f"{name}.skops/{batch}" for name in names for batch in BOTH]
    made = [run_maker(Environment.JAX, "digests", "sklearn", str(folder), *cases) for _ in range(2)]
    assert made[0] == made[1]
    assert [*json.loads(made[0])] == cases


@pytest.mark.parametrize(("name", "labels"), [("digits_forest", "0 1 2 3 4 5 6 7 8 9"), ("cancer_svm_rbf", "0 1")])
@pytest.mark.usefixtures("found")
def test_pipeline_through_the_worker_offers_its_labels(folder: Path, tmp_path: Path, name: str, labels: str) -> None:
    request = FrontendRequest(
        source_path=str(folder / f"{name}.skops"), source_format=SourceFormat.SKLEARN, scratch_path=str(tmp_path)
    )
    with np.load(folder / f"{name.partition('_')[0]}.npz") as data:
        np.savez(tmp_path / "inputs.npz", input_0=data["x"])
    with Worker(environment(Environment.JAX)) as worker:
        made = worker.load(request)
        answers = worker.answer(tmp_path / "inputs.npz", tmp_path / "answers.npz")
    assert made.labels == tuple(labels.split())
    assert (
        made.operators_before
        == {
            "digits_forest": {"StandardScaler": 1, "RandomForestClassifier": 1},
            "cancer_svm_rbf": {"RobustScaler": 1, "PCA": 1, "SVC": 1},
        }[name]
    )
    assert answers.max_abs_diff < 1e-5


def refused(path: Path, scratch: Path) -> ConversionFailedError:
    """Return what the worker says of a file that it must refuse."""
    request = FrontendRequest(source_path=str(path), source_format=SourceFormat.SKLEARN, scratch_path=str(scratch))
    with Worker(environment(Environment.JAX)) as worker, pytest.raises(ConversionFailedError) as failed:
        worker.load(request)
    return failed.value


def test_pickled_pipeline_is_refused_with_the_remedy_and_runs_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Attack:
        @override
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return type(witness).touch, (str(witness),)

    path = tmp_path / "model.skops"
    path.write_bytes(pickle.dumps(Attack()))
    failure = refused(path, tmp_path)
    assert failure.kind is FailureKind.BAD_INPUT
    assert "skops.io.dump" in str(failure)
    assert not witness.exists()


@pytest.fixture(scope="module")
def fared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("refused")
    names = run_maker(Environment.JAX, "sklearn_refused", str(folder)).split()
    told: dict[str, str] = json.loads(run_maker(Environment.JAX, "opened", "sklearn", str(folder), *names))
    return told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ada_boost", "UnsupportedOperatorError: AdaBoostClassifier is not supported as step 1 of 1; supported: Dec"),
        ("text", "UnsupportedOperatorError: TfidfVectorizer is not supported as step 1 of 2"),
        ("own_function", "InvalidInputError: source: holds"),
        ("categories", "InvalidInputError: source: holds functools.partial (PartialNode)"),
        ("several_targets", "SchemeFailedError: trees of several targets are not supported"),
        ("not_fitted", "InvalidInputError: source: is not fitted"),
        ("endless_tree", "InvalidInputError: source: holds a tree whose nodes lead nowhere"),
        ("shared_branch", "InvalidInputError: source: holds a tree with nodes that belong to no branch"),
    ],
)
def test_file_that_cannot_be_emitted_is_refused_and_says_why(fared: dict[str, str], name: str, said: str) -> None:
    assert fared[name].startswith(said)
