"""Fitted scikit-learn estimators as JAX functions, so that they become models of the runtime's own operators."""

from __future__ import annotations

from converters.sklearn_emitter.emission import SUPPORTED, Emitted, emit

__all__ = ["SUPPORTED", "Emitted", "emit"]
