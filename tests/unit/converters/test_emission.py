"""Estimators that are none, or damaged: refused in words that say what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from converters.failures import UnsupportedOperatorError
from converters.sklearn_emitter import emit
from shared.errors import InvalidInputError


def estimator(name: str, module: str = "sklearn.svm", **fields: object) -> Any:  # noqa: ANN401 - stands for an estimator, which has no type
    """Return what scikit-learn's own class would be after a damaged file was opened."""
    return type(name, (), {"__module__": module, **fields})()


def test_estimator_whose_arrays_do_not_fit_is_refused_as_bad_input() -> None:
    damaged = estimator(
        "SVC",
        n_features_in_=2,
        classes_=np.arange(3),
        n_support_=np.array([10, 10, 10]),
        dual_coef_=np.zeros((2, 3)),
        intercept_=np.zeros(3),
        support_vectors_=np.zeros((3, 2)),
        break_ties=False,
        kernel="linear",
    )
    with pytest.raises(InvalidInputError, match="numbers that do not fit together") as caught:
        emit(damaged, fixed_batch=True)
    assert caught.value.remedy == "save it again after fit()"


def test_estimator_without_what_fitting_leaves_is_refused_as_not_fitted() -> None:
    with pytest.raises(InvalidInputError, match="not fitted"):
        emit(estimator("LinearSVC"), fixed_batch=True)


def test_class_of_the_same_name_from_elsewhere_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="LinearSVC is not supported"):
        emit(estimator("LinearSVC", "somewhere.svm"), fixed_batch=True)
