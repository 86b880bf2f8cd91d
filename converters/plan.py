"""What a conversion will do, decided from its request alone."""

from __future__ import annotations

from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING

import msgspec

from shared import pipeline
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from shared.conversion import AccuracyBudget, ConversionRequest

_MAX_GOLDEN_CASES = 64
"""Each case travels in the manifest of every device."""
_MAX_THREADS = 256
_SHARES = ("max_drop", "min_agreement", "min_confident_agreement", "confident")
_OPTIONAL_SHARES = ("max_class_drop", "max_slice_drop")


class Stage(StrEnum):
    """A step of the work, in order; the value is what people see."""

    CHECK_DATA = "check data"
    LOAD_SOURCE = "load source"
    ASK_SOURCE = "ask source"
    SEARCH = "search"
    GATE = "gate"
    CARD = "card"


_WEIGHTS = {
    Stage.CHECK_DATA: 2.0,
    Stage.LOAD_SOURCE: 20.0,
    Stage.ASK_SOURCE: 15.0,
    Stage.SEARCH: 45.0,
    Stage.GATE: 15.0,
    Stage.CARD: 3.0,
}
"""Shares of the time, between a small model, where importing the framework is most of it, and a large one."""


def fraction(stage: Stage, share: float) -> float:
    """Return how much of the work (0..1) is done when the `share` (0..1) of a stage is."""
    before = sum(weight for each, weight in _WEIGHTS.items() if list(Stage).index(each) < list(Stage).index(stage))
    return (before + _WEIGHTS[stage] * min(max(share, 0.0), 1.0)) / sum(_WEIGHTS.values())


def check_request(request: ConversionRequest) -> None:
    """Refuse a request that cannot be carried out as it stands.

    Raises:
        InvalidInputError: names the field.
    """
    _check_pipeline(request)
    if not request.schemes or len(set(request.schemes)) != len(request.schemes):
        raise InvalidInputError(field="schemes", problem="must name each wanted scheme once, and at least one")
    ids = [profile.profile_id for profile in request.profiles]
    if not ids or len(set(ids)) != len(ids):
        raise InvalidInputError(field="profiles", problem="must name each class of hardware once, and at least one")
    _check_budget(request.budget)
    if not 1 <= request.golden_cases <= _MAX_GOLDEN_CASES:
        raise InvalidInputError(field="golden_cases", problem=f"must be 1..{_MAX_GOLDEN_CASES}")
    if not 1 <= request.threads <= _MAX_THREADS:
        raise InvalidInputError(field="threads", problem=f"must be 1..{_MAX_THREADS}")
    if request.batch is not None and request.batch < 1:
        raise InvalidInputError(field="batch", problem="must be at least 1", remedy="null leaves it free")
    if not request.max_search_s > 0:
        raise InvalidInputError(field="max_search_s", problem="must be more than 0")


def _check_pipeline(request: ConversionRequest) -> None:
    bend = pipeline.bend_of(pipeline.check(request.pipeline))
    if bend:
        raise InvalidInputError(
            field="pipeline.steps",
            problem=f"only a straight line from a request to one model's scores can be judged, and {bend}",
            remedy="convert with the steps around the model alone; `release create --pipeline` takes the whole",
        )
    steps = [step for step in request.pipeline.steps if isinstance(step, pipeline.Normalise)]
    is_per_channel = any(step.mean is not msgspec.UNSET or step.std is not msgspec.UNSET for step in steps)
    if request.image_input and (len(steps) > 1 or is_per_channel):
        remedy = "give one normalise step with scale and offset, or leave image_input"
        problem = "only one scale and offset can be folded into the graph"
        raise InvalidInputError(field="image_input", problem=problem, remedy=remedy)


def _check_budget(budget: AccuracyBudget) -> None:
    for name in _SHARES:
        _check_share(name, getattr(budget, name))
    for name in _OPTIONAL_SHARES:
        if getattr(budget, name) is not None:
            _check_share(name, getattr(budget, name))
    if budget.min_class_samples < 1:
        raise InvalidInputError(field="budget.min_class_samples", problem="must be at least 1")
    if budget.min_snr_db is not None and not isfinite(budget.min_snr_db):
        raise InvalidInputError(field="budget.min_snr_db", problem="must be finite")


def _check_share(name: str, value: float) -> None:
    # Not `<` and `>`: a NaN must not pass.
    if not 0 <= value <= 1:
        remedy = "0.01 tolerates one percentage point"
        raise InvalidInputError(field=f"budget.{name}", problem="must be 0..1", remedy=remedy)
