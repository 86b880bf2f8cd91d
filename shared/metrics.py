"""The one table of metrics: recorder, wire, exposition and docs/metrics.md iterate over it.

A new metric is a new row here, and whoever counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class MetricKind(StrEnum):
    """How a metric is counted, merged and exposed."""

    COUNT = "count"
    """An integer that only grows."""
    HISTOGRAM = "histogram"
    """Integers by bucket, and the sum; upwards, a mergeable sketch."""
    GAUGE = "gauge"
    """What is so at this moment; processes that share a port add theirs up."""
    PEAK = "peak"
    """The same, where the greatest of theirs counts."""


PREFIX: Final = "litefleet_"
SERIES: Final = ("model", "version", "variant")
"""Labels of everything that is counted of a release."""
_CALL: Final = (*SERIES, "protocol")

TIME_BUCKETS_MS: Final = (
    *(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1_000.0, 2_500.0, 10_000.0, 30_000.0),
)
"""From one invocation of a tiny model to the deadline of a request. Finest where half a millisecond is decided on."""
_SHARE_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_ITEM_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row: what is measured, in which unit, and who hears of it."""

    name: str
    """Also the key in Telemetry's counts and sketches."""
    kind: MetricKind
    description: str
    labels: tuple[str, ...] = ()
    unit: str = "1"
    """As recorded; `ms` is exposed in seconds, as Prometheus wants it."""
    buckets: tuple[float, ...] = ()
    """Upper ends, each included, in the recorded unit; only of histograms."""
    upwards: bool = False
    """Part of Telemetry: a count as a count, a histogram as a sketch."""

    @property
    def exposed(self) -> str:
        """Its name in `/metrics`, without the suffixes of the format."""
        return PREFIX + (f"{self.name.removesuffix('_ms')}_seconds" if self.unit == "ms" else self.name)

    @property
    def scale(self) -> float:
        """What a recorded value is multiplied by when it is exposed."""
        return 1e-3 if self.unit == "ms" else 1.0


def _of_time(name: str, description: str, *, upwards: bool = False) -> Metric:
    return Metric(
        name=name,
        kind=MetricKind.HISTOGRAM,
        unit="ms",
        labels=_CALL,
        buckets=TIME_BUCKETS_MS,
        upwards=upwards,
        description=description,
    )


CALLS: Final = (
    Metric(
        name="requests",
        kind=MetricKind.COUNT,
        labels=_CALL,
        upwards=True,
        description="Inference requests, errors included.",
    ),
    Metric(
        name="request_errors",
        kind=MetricKind.COUNT,
        labels=(*_CALL, "kind"),
        upwards=True,
        description="Requests that ended in an error of the server or the model, not of the caller.",
    ),
    Metric(
        name="request_refusals",
        kind=MetricKind.COUNT,
        labels=(*_CALL, "kind"),
        upwards=True,
        description="Requests that the caller got wrong, that found the queue full, or whose time was over.",
    ),
    _of_time("latency_ms", "From the whole request read to the reply ready, pipeline included.", upwards=True),
    _of_time("queue_ms", "From the parsed request to a thread that takes it."),
    _of_time("pre_ms", "Reading the request, and the pipeline's steps before the model."),
    _of_time("invoke_ms", "Inside the interpreter only.", upwards=True),
    _of_time("post_ms", "The pipeline's steps behind the model, and writing the reply."),
    Metric(
        name="batch_items",
        kind=MetricKind.HISTOGRAM,
        labels=_CALL,
        buckets=_ITEM_BUCKETS,
        description="Items in the invocation that answered a request.",
    ),
    Metric(
        name="confidence",
        kind=MetricKind.HISTOGRAM,
        labels=_CALL,
        buckets=_SHARE_BUCKETS,
        upwards=True,
        description="Highest score (0..1) of a request's first item, for classifiers.",
    ),
)
"""What the recorder counts of every request."""

METRICS: Final[tuple[Metric, ...]] = (
    *CALLS,
    Metric(
        name="classes",
        kind=MetricKind.COUNT,
        labels=(*SERIES, "class"),
        upwards=True,
        description="Answers by best class of a request's first item; all beyond the first 64 classes are `other`.",
    ),
    Metric(
        name="waiting",
        kind=MetricKind.GAUGE,
        labels=SERIES,
        description="Requests that no thread has taken yet.",
    ),
    Metric(
        name="model_bytes",
        kind=MetricKind.GAUGE,
        unit="bytes",
        labels=SERIES,
        description="Memory that a release takes, as estimated when it was loaded; 0 while it is asleep.",
    ),
    Metric(
        name="in_flight",
        kind=MetricKind.GAUGE,
        description="HTTP and gRPC requests from head to answer, of every kind.",
    ),
    Metric(
        name="processes",
        kind=MetricKind.GAUGE,
        description="Serving processes whose figures these are together.",
    ),
    Metric(
        name="start_time_ms",
        kind=MetricKind.PEAK,
        unit="ms",
        description="When the youngest serving process started, since 1970.",
    ),
    Metric(
        name="pairs",
        kind=MetricKind.COUNT,
        labels=("model", "candidate", "stable", "outcome"),
        description="Requests that two releases ran; outcome is same, flip or candidate_error.",
    ),
    Metric(
        name="pairs_slower",
        kind=MetricKind.COUNT,
        labels=("model", "candidate", "stable"),
        description="Of those pairs, the ones in which the candidate took longer than the policy's ratio.",
    ),
    Metric(
        name="application_requests",
        kind=MetricKind.COUNT,
        labels=("application",),
        description="Requests with an application's key that were let through.",
    ),
    Metric(
        name="application_refusals",
        kind=MetricKind.COUNT,
        labels=("application", "kind"),
        description="Requests with an application's key that were not, and why.",
    ),
    Metric(
        name="drift_items",
        kind=MetricKind.COUNT,
        labels=SERIES,
        description="Requests that were looked at for drift.",
    ),
    Metric(
        name="drift_psi",
        kind=MetricKind.PEAK,
        labels=(*SERIES, "figure"),
        description="Population stability index of the last look against the release's reference.",
    ),
    Metric(
        name="drift_threshold",
        kind=MetricKind.PEAK,
        labels=(*SERIES, "figure"),
        description="What the index of that look had to exceed to count as drift.",
    ),
    Metric(
        name="drift_found",
        kind=MetricKind.PEAK,
        labels=(*SERIES, "figure"),
        description="1 when the last look found drift, else 0.",
    ),
    Metric(
        name="drift_looks",
        kind=MetricKind.COUNT,
        labels=(*SERIES, "figure"),
        upwards=True,
        description="Looks at a figure since the process started.",
    ),
    Metric(
        name="drift_alarms",
        kind=MetricKind.COUNT,
        labels=(*SERIES, "figure"),
        upwards=True,
        description="Of those looks, the ones that found drift.",
    ),
    Metric(
        name="request_log_records",
        kind=MetricKind.COUNT,
        description="Requests that were written down.",
    ),
    Metric(
        name="request_log_dropped",
        kind=MetricKind.COUNT,
        labels=("reason",),
        description="Sampled requests that were not: queue_full, disk_full or failed.",
    ),
)

BY_NAME: Final[dict[str, Metric]] = {metric.name: metric for metric in METRICS}


def labelled(name: str, label: str) -> str:
    """Return the name by which Telemetry carries a count that has a label besides those of the series."""
    return f"{name}/{label}"


def unlabelled(name: str) -> tuple[str, str]:
    """Return metric and label of such a name; the label is empty where there is none."""
    row, _, label = name.partition("/")
    return row, label


def travels(name: str, kind: MetricKind) -> bool:
    """Tell whether Telemetry may carry a metric of this name and kind."""
    row = BY_NAME.get(unlabelled(name)[0])
    return row is not None and row.upwards and row.kind is kind
