"""The one table of metrics: recorder, wire, gates, exposition and dashboards iterate over it.

A new metric is a new row here, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """How a metric is measured and merged."""

    COUNT = "count"
    SKETCH = "sketch"


class Direction(StrEnum):
    """Which way is better; `neutral` metrics never gate."""

    LOWER_IS_BETTER = "lower_is_better"
    HIGHER_IS_BETTER = "higher_is_better"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row: what is measured, in which unit, and how much worse a candidate may be by default."""

    name: str
    unit: str
    kind: MetricKind
    direction: Direction
    default_margin: float | None
    """Largest tolerated relative worsening (0.5 = 50 %); None where the metric does not gate."""
    description: str


METRICS: tuple[Metric, ...] = (
    Metric(
        name="requests",
        unit="1",
        kind=MetricKind.COUNT,
        direction=Direction.NEUTRAL,
        default_margin=None,
        description="Inference requests answered, errors included.",
    ),
    Metric(
        name="request_errors",
        unit="1",
        kind=MetricKind.COUNT,
        direction=Direction.LOWER_IS_BETTER,
        default_margin=0.0,
        description="Requests that ended in an error of the server or the model, not of the caller.",
    ),
    Metric(
        name="latency_ms",
        unit="ms",
        kind=MetricKind.SKETCH,
        direction=Direction.LOWER_IS_BETTER,
        default_margin=0.5,
        description="From the whole request read to the reply ready, pipeline included.",
    ),
    Metric(
        name="invoke_ms",
        unit="ms",
        kind=MetricKind.SKETCH,
        direction=Direction.LOWER_IS_BETTER,
        default_margin=0.5,
        description="Inside the interpreter only.",
    ),
    Metric(
        name="confidence",
        unit="1",
        kind=MetricKind.SKETCH,
        direction=Direction.NEUTRAL,
        default_margin=None,
        description="Highest score of an answer, 0..1, for classifiers.",
    ),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
