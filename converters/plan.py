"""What a conversion will do, decided from its request alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared import pipeline
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from shared.conversion import ConversionRequest

CHECK_DATA = "check data"
LOAD_SOURCE = "load source"
MEASURE_SOURCE = "measure source"

_MAX_GOLDEN_CASES = 64
"""Each case travels in the manifest of every device."""
_MAX_THREADS = 256
# Shares of the time on a small model, where importing the framework is most of it; a large model moves work to the end.
_BEFORE_SCHEMES = ((CHECK_DATA, 1.0), (LOAD_SOURCE, 10.0), (MEASURE_SOURCE, 2.0))
_CONVERT_WEIGHT, _MEASURE_WEIGHT = 3.0, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the work."""

    name: str
    start: float
    """Share of the work (0..1) that is done when it begins."""


def convert_stage(scheme: str) -> str:
    """Return the name of the step that makes an artifact."""
    return f"{scheme}: convert"


def measure_stage(scheme: str) -> str:
    """Return the name of the step that judges an artifact."""
    return f"{scheme}: measure"


def check_request(request: ConversionRequest) -> None:
    """Refuse a request that cannot be carried out as it stands.

    Raises:
        InvalidInputError: names the field.
    """
    pipeline.check(request.pipeline)
    if not request.schemes or len(set(request.schemes)) != len(request.schemes):
        raise InvalidInputError(field="schemes", problem="must name each wanted scheme once, and at least one")
    if not 0 <= request.max_accuracy_drop <= 1:
        raise InvalidInputError(
            field="max_accuracy_drop", problem="must be 0..1", remedy="0.01 tolerates one percentage point"
        )
    if not 1 <= request.golden_cases <= _MAX_GOLDEN_CASES:
        raise InvalidInputError(field="golden_cases", problem=f"must be 1..{_MAX_GOLDEN_CASES}")
    if not 1 <= request.threads <= _MAX_THREADS:
        raise InvalidInputError(field="threads", problem=f"must be 1..{_MAX_THREADS}")


def stages(request: ConversionRequest) -> tuple[Stage, ...]:
    """Return every step in order; their starts never fall."""
    weights = list(_BEFORE_SCHEMES)
    for scheme in request.schemes:
        weights += [(convert_stage(scheme), _CONVERT_WEIGHT), (measure_stage(scheme), _MEASURE_WEIGHT)]
    total = sum(weight for _, weight in weights)
    made, done = [], 0.0
    for name, weight in weights:
        made.append(Stage(name=name, start=done / total))
        done += weight
    return tuple(made)
