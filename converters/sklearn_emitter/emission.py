"""Which estimators can be emitted, by whom, and how they are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import UnsupportedOperatorError
from converters.sklearn_emitter import kernels, linear, trees
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from converters.sklearn_emitter.step import Estimator, Step

_TRANSFORMERS: dict[str, Callable[[Estimator], Step]] = {
    "MaxAbsScaler": linear.max_abs_scaler,
    "MinMaxScaler": linear.min_max_scaler,
    "Normalizer": linear.normalizer,
    "PCA": linear.pca,
    "PolynomialFeatures": linear.polynomial_features,
    "RobustScaler": linear.robust_scaler,
    "SelectKBest": linear.selection,
    "SelectPercentile": linear.selection,
    "StandardScaler": linear.standard_scaler,
    "TruncatedSVD": linear.truncated_svd,
    "VarianceThreshold": linear.selection,
}
_PREDICTORS: dict[str, Callable[[Estimator], Step]] = {
    "ElasticNet": linear.regressor,
    "GaussianNB": linear.gaussian_naive_bayes,
    "Lasso": linear.regressor,
    "LinearRegression": linear.regressor,
    "LinearSVC": linear.scores_of_classes,
    "LinearSVR": linear.regressor,
    "LogisticRegression": linear.logistic,
    "MLPClassifier": linear.network,
    "MLPRegressor": linear.network,
    "Perceptron": linear.scores_of_classes,
    "Ridge": linear.regressor,
    "RidgeClassifier": linear.scores_of_classes,
    "SGDClassifier": linear.scores_of_classes,
    "SGDRegressor": linear.regressor,
    "SVC": kernels.classifier,
    "SVR": kernels.regressor,
}
_TREES: dict[str, Callable[[Estimator, trees.Layout], Step]] = {
    "DecisionTreeClassifier": trees.tree,
    "DecisionTreeRegressor": trees.tree,
    "ExtraTreesClassifier": trees.forest,
    "ExtraTreesRegressor": trees.forest,
    "GradientBoostingClassifier": trees.boosting,
    "GradientBoostingRegressor": trees.boosting,
    "HistGradientBoostingClassifier": trees.histogram_boosting,
    "HistGradientBoostingRegressor": trees.histogram_boosting,
    "RandomForestClassifier": trees.forest,
    "RandomForestRegressor": trees.forest,
}
_COLUMN_BY_COLUMN = frozenset({"MaxAbsScaler", "MinMaxScaler", "RobustScaler", "StandardScaler"})
"""Scalers that map each column by itself and never downwards, so that the thresholds of trees can take them in."""
_MODULES = "sklearn."

SUPPORTED = tuple(sorted({*_TRANSFORMERS, *_PREDICTORS, *_TREES}))
"""Classes that may stand in a Pipeline, or alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """A fitted estimator as a function of float32 rows."""

    step: Step
    features: int
    labels: tuple[str, ...]
    """What the columns of the answer stand for; empty for regressors."""
    steps: tuple[str, ...]
    """Class names, in order."""


def emit(model: Estimator, *, fixed_batch: bool) -> Emitted:
    """Emit a fitted Pipeline or estimator.

    Raises:
        UnsupportedOperatorError: names the class or setting, and what is supported.
        InvalidInputError: not fitted, or damaged.
    """
    stages = stages_of(model)
    last = stages[-1]
    try:
        features = int(stages[0].n_features_in_)
        emitted = _emitted(stages, fixed_batch=fixed_batch)
        labels = tuple(str(label) for label in last.classes_) if hasattr(last, "classes_") else ()
    except AttributeError as exc:
        raise InvalidInputError(
            field="source", problem=f"is not fitted, or not whole: {exc}", remedy="save it after fit()"
        ) from exc
    # What numpy says of arrays that do not fit each other; fit() leaves none such.
    except (ValueError, IndexError, TypeError, KeyError) as exc:
        raise InvalidInputError(
            field="source", problem=f"holds numbers that do not fit together: {exc}", remedy="save it again after fit()"
        ) from exc
    return Emitted(
        step=emitted, features=features, labels=labels, steps=tuple(type(stage).__name__ for stage in stages)
    )


def stages_of(model: Estimator) -> list[Estimator]:
    """Return the estimators of a Pipeline in order, or the one that it is; what passes everything on is left out.

    Raises:
        UnsupportedOperatorError: a class that has no emitter.
    """
    stages = [stage for _, stage in model.steps] if _is(model, "Pipeline") else [model]
    real = [stage for stage in stages if stage is not None and not (isinstance(stage, str) and stage == "passthrough")]
    for place, stage in enumerate(real):
        name = type(stage).__name__
        fits = name in _TRANSFORMERS if place < len(real) - 1 else name in {*_PREDICTORS, *_TREES, *_TRANSFORMERS}
        # By name and home, not by kind: a subclass may compute anything.
        if not fits or not type(stage).__module__.startswith(_MODULES):
            raise UnsupportedOperatorError(
                f"{name} is not supported as step {place + 1} of {len(real)}; supported: {', '.join(SUPPORTED)}"
            )
    if not real:
        raise InvalidInputError(field="source", problem="is a Pipeline without steps")
    return real


def _emitted(stages: list[Estimator], *, fixed_batch: bool) -> Step:
    *before, last = stages
    name = type(last).__name__
    if name not in _TREES:
        final = {**_PREDICTORS, **_TRANSFORMERS}[name](last)
        return _chained([_transformer(stage) for stage in before] + [final])
    taken_in: list[Estimator] = []
    while before and type(before[-1]).__name__ in _COLUMN_BY_COLUMN:
        taken_in.insert(0, before.pop())
    layout = trees.Layout(
        features=int(last.n_features_in_), fixed_batch=fixed_batch, scale=_scaling(taken_in) if taken_in else None
    )
    return _chained([_transformer(stage) for stage in before] + [_TREES[name](last, layout)])


def _transformer(stage: Estimator) -> Step:
    return _TRANSFORMERS[type(stage).__name__](stage)


def _scaling(scalers: list[Estimator]) -> trees.Scale:
    def scale(rows: Any) -> Any:  # noqa: ANN401 - a numpy array, in scikit-learn's hands
        for scaler in scalers:
            rows = scaler.transform(rows)
        # Trees look at single precision, whatever a scaler answers in.
        return rows.astype(np.float32)

    return scale


def _chained(steps: list[Step]) -> Step:
    def step(x: Any) -> Any:  # noqa: ANN401 - a JAX array
        for part in steps:
            x = part(x)
        return x

    return step


def _is(model: Estimator, name: str) -> bool:
    return type(model).__name__ == name and type(model).__module__.startswith(_MODULES)
