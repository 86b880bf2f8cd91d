"""Support vector machines."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.sklearn_emitter.linear import with_negative
from converters.sklearn_emitter.step import unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converters.sklearn_emitter.step import Array, Estimator, Step

_FLOAT = np.float32


def classifier(model: Estimator) -> Step:
    """Of two classes the decision function and its negative; of more, votes `(N, classes)` of each pair of classes.

    Votes are what scikit-learn's `predict` counts; its decision function breaks their ties in another way.
    """
    if len(model.classes_) == 2:  # noqa: PLR2004 - two classes
        return with_negative(_decision(model, model.dual_coef_.T, model.intercept_))
    if model.break_ties:
        raise unsupported(model, "break_ties=True")
    decide = _decision(model, _pair_coefficients(model), model.intercept_)
    # Row p holds +1 for the first class of pair p, and -1 for its second.
    sides = np.zeros((len(model.intercept_), len(model.classes_)), _FLOAT)
    for pair, (first, second) in enumerate(combinations(range(len(model.classes_)), 2)):
        sides[pair, first], sides[pair, second] = 1.0, -1.0
    against = (sides < 0).sum(axis=0).astype(_FLOAT)

    def step(x: Array) -> Array:
        won = (decide(x) > 0).astype(_FLOAT)
        return won @ sides + against

    return step


def regressor(model: Estimator) -> Step:
    """The decision function, `(N, 1)`."""
    return _decision(model, model.dual_coef_.T, model.intercept_)


def _pair_coefficients(model: Estimator) -> NDArray[np.float64]:
    """Return `(support vectors, pairs)`: libsvm shares one row of coefficients between the pairs of a class."""
    ends = np.cumsum(model.n_support_)
    spans = [slice(end - count, end) for end, count in zip(ends, model.n_support_, strict=True)]
    pairs = list(combinations(range(len(spans)), 2))
    coefficients = np.zeros((int(ends[-1]), len(pairs)))
    for pair, (first, second) in enumerate(pairs):
        coefficients[spans[first], pair] = model.dual_coef_[second - 1, spans[first]]
        coefficients[spans[second], pair] = model.dual_coef_[first, spans[second]]
    return coefficients


def _decision(model: Estimator, coefficients: NDArray[Any], intercept: NDArray[Any]) -> Step:
    if not isinstance(model.support_vectors_, np.ndarray):
        raise unsupported(model, "support vectors from a sparse matrix")
    offset = np.asarray(intercept, _FLOAT)
    if model.kernel == "linear":
        weights = (model.support_vectors_.T @ coefficients).astype(_FLOAT)
        return lambda x: x @ weights + offset
    kernel, mixed = _kernel(model), coefficients.astype(_FLOAT)
    return lambda x: kernel(x) @ mixed + offset


def _kernel(model: Estimator) -> Step:
    import jax.numpy as jnp

    gamma, constant = float(model._gamma), _FLOAT(model.coef0)  # noqa: SLF001 - the number behind "scale" and "auto"
    vectors = np.asarray(model.support_vectors_, np.float64)
    if model.kernel == "rbf":
        return _rbf(vectors, gamma)
    scaled = (gamma * vectors.T).astype(_FLOAT)
    if model.kernel == "sigmoid":
        return lambda x: jnp.tanh(x @ scaled + constant)
    if model.kernel == "poly" and float(model.degree).is_integer():
        return lambda x: _power(x @ scaled + constant, int(model.degree))
    raise unsupported(model, f"kernel {model.kernel!r}")


def _rbf(vectors: NDArray[np.float64], gamma: float) -> Step:
    """exp(-gamma |x - v|²), multiplied out, from the middle of the vectors: far from it, the squares drown the rest."""
    import jax.numpy as jnp

    middle = vectors.mean(axis=0).astype(_FLOAT)
    around = vectors - middle
    cross = (2.0 * gamma * around.T).astype(_FLOAT)
    squares = (gamma * (around**2).sum(axis=1)).astype(_FLOAT)

    def step(x: Array) -> Array:
        near = x - middle
        own = (near * near).sum(axis=1, keepdims=True) * _FLOAT(gamma)
        return jnp.exp(jnp.minimum(near @ cross - squares - own, _FLOAT(0)))

    return step


def _power(x: Array, degree: int) -> Array:
    import jax.numpy as jnp

    product = jnp.ones_like(x) if degree == 0 else x
    for _ in range(degree - 1):
        product = product * x
    return product
