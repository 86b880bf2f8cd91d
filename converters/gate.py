"""Whether an artifact may be released: its accuracy against the source, on the same held-out samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shared.manifest import Accuracy
from shared.runtime.pipeline import top_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.conversion import ConvertedArtifact

    Scores = NDArray[np.float32]

_EXACT = 1e-12
"""Shares are quotients of whole numbers: a drop of exactly the margin must not fail by the last bit."""


def accuracy(source: Scores, artifact: Scores, labels: NDArray[np.int64]) -> Accuracy:
    """Measure `(N, K)` scores of both sides against `(N,)` labels. An answer that is no number is a wrong one."""
    # argmax takes a NaN for the greatest, and would count it right wherever it stands on the label.
    finite = np.isfinite(artifact).all(axis=1)
    source_answers, artifact_answers = top_answers(source), np.where(finite, top_answers(artifact), -1)
    return Accuracy(
        samples=len(labels),
        source=float((source_answers == labels).mean()),
        artifact=float((artifact_answers == labels).mean()),
        agreement=float((source_answers == artifact_answers).mean()),
    )


def refusal(measured: Accuracy, max_accuracy_drop: float) -> str:
    """Return "" within the margin, else `accuracy_drop: 0.031 > 0.010`."""
    drop = measured.source - measured.artifact
    if drop > max_accuracy_drop + _EXACT:
        return f"accuracy_drop: {drop:.3f} > {max_accuracy_drop:.3f}"
    return ""


def closest(artifacts: Sequence[ConvertedArtifact]) -> str:
    """Say which refused artifact lost the least accuracy, and why it was refused."""
    best = min(artifacts, key=lambda made: (made.accuracy.source - made.accuracy.artifact, made.length_bytes))
    return f"{best.scheme} came closest: {best.refused}"
