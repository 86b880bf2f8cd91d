"""What every emitter makes: a function over a batch of rows, in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converters.failures import UnsupportedOperatorError

Estimator = Any
"""A fitted scikit-learn estimator; scikit-learn ships no types."""
Array = Any
"""A JAX array `(N, …)`; typed by JAX, which not every environment has."""
Step = Callable[[Array], Array]


def unsupported(estimator: Estimator, what: str) -> UnsupportedOperatorError:
    """Return the error that says which of an estimator's settings has no emitter."""
    return UnsupportedOperatorError(f"{type(estimator).__name__} with {what} is not supported")
