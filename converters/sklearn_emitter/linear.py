"""Scalers, projections, linear models, networks of dense layers, Gaussian naive Bayes: sums of products, mostly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.sklearn_emitter.step import unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from converters.sklearn_emitter.step import Array, Estimator, Step

_FLOAT = np.float32


def standard_scaler(scaler: Estimator) -> Step:
    """(x - mean) / deviation, each where the scaler was told so."""
    return _affine(scaler.mean_ if scaler.with_mean else None, scaler.scale_)


def robust_scaler(scaler: Estimator) -> Step:
    """(x - median) / range between quantiles."""
    return _affine(scaler.center_ if scaler.with_centering else None, scaler.scale_ if scaler.with_scaling else None)


def max_abs_scaler(scaler: Estimator) -> Step:
    """Divide by the largest magnitude, clipped to it where told so."""
    step = _affine(None, scaler.scale_)
    return _clipped(step, -1.0, 1.0) if getattr(scaler, "clip", False) else step


def min_max_scaler(scaler: Estimator) -> Step:
    """Multiply and add, clipped to the range where told so."""
    scale, minimum = _float(scaler.scale_), _float(scaler.min_)

    def step(x: Array) -> Array:
        return x * scale + minimum

    return _clipped(step, *scaler.feature_range) if scaler.clip else step


def normalizer(scaler: Estimator) -> Step:
    """Divide each row by its norm; a row of zeros stays so."""
    import jax.numpy as jnp

    def step(x: Array) -> Array:
        match scaler.norm:
            case "l1":
                norm = jnp.abs(x).sum(axis=1, keepdims=True)
            case "max":
                norm = jnp.abs(x).max(axis=1, keepdims=True)
            case _:
                norm = jnp.sqrt((x * x).sum(axis=1, keepdims=True))
        return x / jnp.where(norm == 0, _FLOAT(1), norm)

    return step


def pca(projection: Estimator) -> Step:
    """(x - mean) @ components, and each to unit variance where told so."""
    components = projection.components_.T
    if projection.whiten:
        scale = np.sqrt(projection.explained_variance_)
        # As scikit-learn does, so that a component without variance is no division by zero.
        components = components / np.maximum(scale, np.finfo(scale.dtype).eps)
    mean = np.zeros(len(components)) if projection.mean_ is None else projection.mean_
    return _dense(components, np.zeros(components.shape[1]), minus=mean)


def truncated_svd(projection: Estimator) -> Step:
    """Multiply by the components, with nothing taken away."""
    return _dense(projection.components_.T, np.zeros(len(projection.components_)))


def selection(selector: Estimator) -> Step:
    """Keep the columns that were selected, by a product that any batch allows."""
    kept = selector.get_support()
    return _dense(np.eye(len(kept))[:, kept], np.zeros(int(kept.sum())))


def regressor(model: Estimator) -> Step:
    """Multiply by the coefficients and add the intercept, `(N, targets)`."""
    return _dense(np.atleast_2d(model.coef_).T, np.atleast_1d(model.intercept_))


def logistic(model: Estimator) -> Step:
    """Probabilities `(N, classes)` by softmax; of two classes by a sigmoid."""
    scores = regressor(model)
    return _two_probabilities(scores) if len(model.classes_) == 2 else _then(scores, _softmax)  # noqa: PLR2004 - two classes


def scores_of_classes(model: Estimator) -> Step:
    """The decision function as `(N, classes)`: of two classes, one is the other's negative.

    Not probabilities, even where the estimator can tell them: they saturate, and then no class would lead.
    """
    scores = regressor(model)
    return scores if len(model.classes_) > 2 else with_negative(scores)  # noqa: PLR2004 - two classes


def network(model: Estimator) -> Step:
    """Dense layers with the model's activations, `(N, classes or targets)`."""
    layers = [_dense(weights, bias) for weights, bias in zip(model.coefs_, model.intercepts_, strict=True)]
    hidden = _activation(model, model.activation)

    def raw(x: Array) -> Array:
        for layer in layers[:-1]:
            x = hidden(layer(x))
        return layers[-1](x)

    if model.out_activation_ == "logistic" and len(model.classes_) == 2:  # noqa: PLR2004 - two classes
        return _two_probabilities(raw)
    return _then(raw, _activation(model, model.out_activation_))


def gaussian_naive_bayes(model: Estimator) -> Step:
    """Probabilities `(N, classes)` from the joint log likelihood."""
    precision = _float(0.5 / model.var_)
    means = _float(model.theta_)
    constant = _float(np.log(model.class_prior_) - 0.5 * np.log(2.0 * np.pi * model.var_).sum(axis=1))

    def step(x: Array) -> Array:
        # Not multiplied out: the squares are large, and their difference is what counts.
        distance = x[:, None, :] - means[None]
        return constant - (distance * distance * precision[None]).sum(axis=2)

    return _then(step, _softmax)


def polynomial_features(features: Estimator) -> Step:
    """Products of up to `degree` columns."""
    import jax.numpy as jnp

    powers = features.powers_
    degree = int(powers.sum(axis=1).max())
    # Column after column of each product; what has fewer factors ends with ones, which stand behind the columns.
    ones = powers.shape[1]
    factors = [[*np.repeat(np.arange(ones), row), *[ones] * (degree - int(row.sum()))] for row in powers]
    chosen = [np.eye(ones + 1, dtype=_FLOAT)[:, [row[place] for row in factors]] for place in range(degree)]

    def step(x: Array) -> Array:
        extended = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
        product = extended @ chosen[0]
        for matrix in chosen[1:]:
            product = product * (extended @ matrix)
        return product

    return step


def with_negative(step: Step) -> Step:
    """Return `(N, 2)` of a step whose `(N, 1)` is positive for the second class."""
    sides = np.array([[-1.0, 1.0]], _FLOAT)
    return _then(step, lambda score: score * sides)


def probabilities(step: Step, classes: int) -> Step:
    """Return `(N, classes)` of a step that gives scores, one alone for two classes."""
    return _two_probabilities(step) if classes == 2 else _then(step, _softmax)  # noqa: PLR2004 - two classes


def _then(first: Step, second: Callable[[Array], Array]) -> Step:
    return lambda x: second(first(x))


def _affine(minus: NDArray[Any] | None, divisor: NDArray[Any] | None) -> Step:
    # A divisor in single precision, as scikit-learn has for such an input.
    shift = None if minus is None else _float(minus)
    scale = None if divisor is None else _float(divisor)

    def step(x: Array) -> Array:
        shifted = x if shift is None else x - shift
        return shifted if scale is None else shifted / scale

    return step


def _clipped(step: Step, low: float, high: float) -> Step:
    import jax.numpy as jnp

    return _then(step, lambda x: jnp.minimum(jnp.maximum(x, _FLOAT(low)), _FLOAT(high)))


def _dense(weights: NDArray[Any], bias: NDArray[Any], *, minus: NDArray[Any] | None = None) -> Step:
    matrix, offset = _float(weights), _float(bias)
    # Taken away first: the difference is small where the input and its mean are both large.
    mean = None if minus is None or not np.any(minus) else _float(minus)
    plain = not np.any(offset)

    def step(x: Array) -> Array:
        product = (x if mean is None else x - mean) @ matrix
        return product if plain else product + offset

    return step


def _activation(model: Estimator, name: str) -> Callable[[Array], Array]:
    import jax
    import jax.numpy as jnp

    known: dict[str, Callable[[Array], Array]] = {
        "identity": lambda x: x,
        "relu": lambda x: jnp.maximum(x, _FLOAT(0)),
        "tanh": jnp.tanh,
        "logistic": jax.nn.sigmoid,
        "softmax": _softmax,
        "exp": jnp.exp,
    }
    if name not in known:
        raise unsupported(model, f"activation {name!r}")
    return known[name]


def _softmax(scores: Array) -> Array:
    import jax

    return jax.nn.softmax(scores, axis=1)


def _two_probabilities(step: Step) -> Step:
    import jax

    return _then(with_negative(step), jax.nn.sigmoid)


def _float(numbers: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(numbers, dtype=_FLOAT)
