"""The steps that choose what is computed at all: they ask the item for a branch's value only when they need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shared.errors import PipelineError
from shared.runtime import ops
from shared.runtime.values import Fanned, LabelScore, Outputs
from shared.steps import Cascade, FanOut, Switch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.pipeline_graph import Source
    from shared.runtime.item import Compute, Item
    from shared.runtime.values import Value
    from shared.steps import Case

    Tensor = NDArray[Any]

LAZY = (Cascade, FanOut, Switch)


def lazy(
    step: Cascade | FanOut | Switch, sources: Sequence[Source], names: Sequence[str], labels: Sequence[str]
) -> Compute:
    """Return the function of a step that chooses; `names` are its sources' ids."""
    match step:
        case Cascade():
            return lambda item: _cascade(item, step, sources)
        case Switch():
            return lambda item: item.value(sources[1 + _chosen(item.value(sources[0]), step.cases, labels)])
        case FanOut():
            keys = [
                name if names.count(name) == 1 else f"{name}:{each.output}"
                for name, each in zip(names, sources, strict=True)
            ]
            return lambda item: _fan_out(item, sources, keys)


def _cascade(item: Item, step: Cascade, sources: Sequence[Source]) -> Value:
    for source in sources[:-1]:
        scores = item.value(source)
        if isinstance(scores, np.ndarray):
            ops.require_finite(scores)
            if scores.size and ops.is_sure(scores, step):
                return scores
    return item.value(sources[-1])


def _fan_out(item: Item, sources: Sequence[Source], keys: Sequence[str]) -> Fanned:
    values: dict[str, Value | PipelineError] = {}
    for key, source in zip(keys, sources, strict=True):
        try:
            values[key] = _finite(item.value(source))
        except PipelineError as exc:
            values[key] = exc
    failures = [each for each in values.values() if isinstance(each, PipelineError)]
    # An image that nobody can read is the caller's mistake, and no answer with as many errors.
    if len(failures) == len(values):
        raise failures[0]
    return Fanned(values=values)


def _finite(value: Value) -> Value:
    for each in value if isinstance(value, Outputs) else (value,):
        if isinstance(each, np.ndarray):
            ops.require_finite(each)
    return value


def _chosen(looked_at: Value, cases: Sequence[Case], labels: Sequence[str]) -> int:
    """Return the number of the first case that holds; their count when none does."""
    label, score = _best(looked_at, labels)
    for number, case in enumerate(cases):
        if case.label in {None, label} and (case.min_score is None or score >= case.min_score):
            return number
    return len(cases)


def _best(value: Value, labels: Sequence[str]) -> tuple[str, float]:
    if isinstance(value, np.ndarray):
        ops.require_finite(value)
        flat = value.ravel()
        if not flat.size:
            return "", float("-inf")
        index = int(flat.argmax())
        return labels[index] if flat.size == len(labels) else str(index), float(flat[index])
    # After a threshold there may be none.
    first = next(iter(cast("tuple[LabelScore, ...]", value)), None)
    return ("", float("-inf")) if first is None else (first.label, first.score)
