"""scikit-learn estimators and pipelines, as `skops.io.dump` writes them; a pickle is never opened."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.frontends.stablehlo import StableHloModule
from converters.loaders.skops_file import check_file
from converters.sklearn_emitter import emit
from converters.sklearn_emitter.emission import stages_of
from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from converters.sklearn_emitter.step import Estimator

    Tensor = NDArray[Any]

_FIELD = "source"
_INPUT, _OUTPUT = "features", "answers"
_SCORED = frozenset({"LinearSVC", "Perceptron", "RidgeClassifier", "SGDClassifier"})
"""Classifiers that answer with their decision function."""
# What skops and scikit-learn raise at files that are damaged, or of other versions.
_LOAD_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, OSError, RuntimeError)


class SklearnSource:
    """A fitted pipeline of float32 rows `(N, features)`."""

    def __init__(self, model: Estimator) -> None:
        self._stages = stages_of(model)
        self._emitted = emit(model, fixed_batch=True)
        self._model = model

    @property
    def name(self) -> str:
        """Framework and version."""
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "litert-converter"))
        return f"scikit-learn {metadata.version('scikit-learn')}, {versions}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What the columns of an answer stand for, in the order of `classes_`; empty for regressors."""
        return self._emitted.labels

    @cached_property
    def parameters(self) -> int:
        """Floating-point numbers that the emitted function carries."""
        return self._lowered(1).parameters

    @property
    def operators(self) -> Counter[str]:
        """Estimators by class."""
        return Counter(self._emitted.steps)

    @property
    def removed(self) -> Sequence[str]:
        """Nothing: what only training needs is not emitted in the first place."""
        return ()

    def to_tflite(self, batch: int | None) -> bytes:
        """Return a float32 model, for a fixed batch or for any.

        Raises:
            UnsupportedOperatorError: a step that has no emitter.
            SchemeFailedError: too large for any batch.
        """
        return self._lowered(batch).to_tflite(inputs=[_INPUT], outputs=[_OUTPUT])

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer by scikit-learn: probabilities or class scores `(N, classes)`, or values `(N, targets)`.

        Raises:
            PipelineError: scikit-learn does not take the rows.
        """
        rows = inputs[0]
        try:
            for stage in self._stages[:-1]:
                rows = stage.transform(rows)
            answer = _answer(self._stages[-1], rows)
        except ValueError as exc:
            raise PipelineError(f"the source model cannot take {inputs[0].shape}: {_first_line(exc)}") from exc
        return [np.asarray(answer, np.float32).reshape(len(rows), -1)]

    def _lowered(self, batch: int | None) -> StableHloModule:
        import jax
        from jax import export

        emitted = self._emitted if batch is not None else emit(self._model, fixed_batch=False)
        # `b` for any batch: JAX has names for free sizes.
        first = batch if batch is not None else export.symbolic_shape("b")[0]
        rows = jax.ShapeDtypeStruct((first, emitted.features), np.float32)
        exported = export.export(jax.jit(emitted.step), platforms=["cpu"])(rows)
        return StableHloModule(exported.mlir_module_serialized)


def open_source(path: Path, scratch: Path) -> SklearnSource:  # noqa: ARG001 - every loader is called so
    """Open a `.skops` file.

    Raises:
        InvalidInputError: no such file, or one that would run code.
        UnsupportedOperatorError: an estimator that has no emitter.
    """
    trusted = check_file(path)
    import skops.io

    try:
        model = skops.io.load(path, trusted=trusted)
    except _LOAD_ERRORS as exc:
        versions = " and ".join(f"{name} {metadata.version(name)}" for name in ("scikit-learn", "skops"))
        problem = f"skops cannot open it: {_first_line(exc)}"
        raise InvalidInputError(field=_FIELD, problem=problem, remedy=f"save it with {versions}") from exc
    return SklearnSource(model)


def _answer(model: Estimator, rows: Tensor) -> Tensor:
    name = type(model).__name__
    if name == "SVC" and len(model.classes_) > 2:  # noqa: PLR2004 - two classes
        return _votes(model, rows)
    if name == "SVC" or name in _SCORED:
        scores: Tensor = np.asarray(model.decision_function(rows))
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(rows))
    return np.asarray(model.predict(rows) if hasattr(model, "predict") else model.transform(rows))


def _votes(model: Estimator, rows: Tensor) -> Tensor:
    """Return how many duels each class wins, which is what `predict` goes by."""
    shape, model.decision_function_shape = model.decision_function_shape, "ovo"
    try:
        duels = np.asarray(model.decision_function(rows))
    finally:
        model.decision_function_shape = shape
    votes = np.zeros((len(rows), len(model.classes_)), np.float32)
    first, second = np.triu_indices(len(model.classes_), k=1)
    for duel, (one, other) in enumerate(zip(first, second, strict=True)):
        votes[:, one] += duels[:, duel] > 0
        votes[:, other] += duels[:, duel] <= 0
    return votes


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]
