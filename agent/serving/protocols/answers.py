"""What a pipeline said of several items as tensors, for the protocols that know nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agent.serving.requests import NamedTensor
from shared.runtime.values import Areas, Box, LabelScore, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.runtime.values import Answer, Value

    Tensor = NDArray[Any]


def scores_and_labels(scores: Tensor, labels: Sequence[str]) -> tuple[NamedTensor, ...]:
    """Return the outputs of a classifier for `(N, K)` scores."""
    named = NamedTensor(name="scores", array=scores)
    if not labels:
        return (named,)
    best = [labels[index] for index in scores.argmax(axis=1)]
    return named, NamedTensor(name="labels", array=np.array(best, dtype=object))


def answer_tensors(answers: Sequence[Answer], *, is_line: bool, labels: Sequence[str]) -> tuple[NamedTensor, ...]:
    """Return answers as outputs with a batch axis: a classifier's scores and labels, or each answer by its name."""
    if not answers:
        return ()
    if is_line:
        scores = [each.scores for each in answers]
        return scores_and_labels(np.stack(scores), labels)
    return tuple(
        NamedTensor(name=name, array=_joined([each.values[name] for each in answers])) for name in answers[0].values
    )


def told_best(answer: Answer) -> tuple[str, float | None]:
    """Return the best label of an answer and its score (0..1): of labels, boxes, areas or plain scores."""
    value = next(iter(answer.values.values()), None)
    if isinstance(value, Areas):
        return (value.areas[0].label, value.areas[0].share) if value.areas else ("", None)
    if isinstance(value, tuple) and value and isinstance(value[0], LabelScore | Box):
        best = value[0]
        return best.label, best.score if 0.0 <= best.score <= 1.0 else None
    if answer.scores.size > 1:
        index = int(answer.scores.argmax())
        highest, lowest = float(answer.scores[index]), float(answer.scores.min())
        return str(index), highest if 0.0 <= lowest <= highest <= 1.0 else None
    return "", None


def _joined(values: Sequence[Value]) -> Tensor:
    numbers = [value for value in values if isinstance(value, np.ndarray)]
    if len(numbers) == len(values) and len({each.shape for each in numbers}) == 1:
        return np.stack(numbers)
    texts = np.empty(len(values), dtype=object)
    texts[:] = [msgspec.json.encode(to_json(value)).decode() for value in values]
    return texts
