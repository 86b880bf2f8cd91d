"""What a conversion that was not refused still does not show, in sentences for the person who releases it.

A gate cannot fail on data that cannot tell: too few samples, samples that calibrated the artifact, labels that a
constant answer would match. Then the figures are true and mean little, which must be said beside them.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from converters import golden_cases
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.conversion import ConvertedArtifact
    from shared.manifest import Accuracy

    Tensor = NDArray[Any]

_CHANCE = 0.05
"""Of calling a margin kept that is not: one-sided 95 %."""
_ONE_SIDED = 1.645
"""Normal quantile of 1 - _CHANCE."""
_MAX_OVERLAP = 0.1
"""Share of evaluation that may also be in calibration: real data repeats a blank image or an idle sensor, and a copied
file repeats all."""
_NAMED = 5
"""Classes named in one sentence."""


def overlap(calibration: Sequence[Tensor], evaluation: Sequence[Tensor]) -> str:
    """Return "" or how many evaluation items also calibrated the artifact. Both as the model is fed.

    Raises:
        InvalidInputError: so many that the accuracy would be measured on what the artifact was fitted to.
    """
    # By digest: both sets at once may be larger than memory.
    fitted = {_digest(item) for item in calibration}
    shared = sum(_digest(item) in fitted for item in evaluation)
    problem = f"{shared} of {len(evaluation)} items are also in the calibration data"
    if shared > _MAX_OVERLAP * len(evaluation):
        remedy = "accuracy must be measured on samples that calibrated nothing: split the data before saving it"
        raise InvalidInputError(field="evaluation.x", problem=problem, remedy=remedy)
    return f"evaluation: {problem}" if shared else ""


def of_data(measured_source: float, labels: NDArray[np.int64], classes: int) -> list[str]:
    """Return what the labels cannot show of a source that is right on the share `measured_source` of them."""
    counts = np.bincount(labels, minlength=max(classes, 2))
    said = []
    missing = np.flatnonzero(counts == 0)
    if missing.size:
        names = ", ".join(map(str, missing[:_NAMED])) + (", …" if missing.size > _NAMED else "")
        said.append(f"evaluation: no sample of {missing.size} of {len(counts)} classes ({names})")
    constant = float(counts.max() / counts.sum())
    if measured_source <= constant:
        said.append(
            f"evaluation: the source is right on {measured_source:.1%}, and always answering class {counts.argmax()} "
            f"on {constant:.1%}: are labels and pipeline those of the training?"
        )
    return said


def of_artifact(made: ConvertedArtifact, max_accuracy_drop: float) -> list[str]:
    """Return what was not shown of an artifact that passed its gate; nothing of one that was refused."""
    if made.refused:
        return []
    said = []
    bound = drop_bound(made.accuracy)
    if bound > max_accuracy_drop:
        said.append(
            f"{made.scheme}: {made.accuracy.samples} samples show an accuracy drop below {bound:.2%} at most, and the "
            f"margin is {max_accuracy_drop:.2%}: evaluate on more"
        )
    if golden_cases.is_blind(made.golden):
        said.append(f"{made.scheme}: its golden check would pass a model that always answers the same")
    return said


def drop_bound(measured: Accuracy) -> float:
    """Return the accuracy drop (0..1) that the true one exceeds with a chance of at most 5 %, roughly.

    Source and artifact answered the same samples, so that only those answered differently carry noise. Where there are
    none, n samples still miss what happens once in n/3 (the "rule of three", here exact).
    """
    # Some of these changed from one wrong answer to another, so that this bounds the noise from above.
    differing = 1 - measured.agreement
    paired = measured.source - measured.artifact + _ONE_SIDED * math.sqrt(differing / measured.samples)
    unseen = 1 - math.pow(_CHANCE, 1 / measured.samples)
    return max(paired, unseen)


def _digest(item: Tensor) -> bytes:
    return hashlib.sha256(item.tobytes()).digest()
