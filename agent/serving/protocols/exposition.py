"""Samples as text: Prometheus' format 0.0.4, or OpenMetrics 1.0 for who asks for it.

Sources: prometheus.io/docs/instrumenting/exposition_formats; prometheus.io/docs/specs/om/open_metrics_spec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from shared.metrics import METRICS, Metric, MetricKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPED: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_ESCAPED_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Buckets(msgspec.Struct, frozen=True, array_like=True):
    """A histogram's counts by bucket, the last for what is above all, and the sum of the values as recorded."""

    counts: tuple[int, ...]
    total: float


Value = int | float | Buckets


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value of one metric; `labels` are the values of the row's labels, in order."""

    name: str
    labels: tuple[str, ...]
    value: Value


def merged(sources: Iterable[Iterable[Sample]]) -> list[Sample]:
    """Return what several processes that share a port come to together."""
    sums: dict[tuple[str, tuple[str, ...]], Value] = {}
    kinds = {row.name: row.kind for row in METRICS}
    for source in sources:
        for sample in source:
            key = (sample.name, sample.labels)
            sums[key] = _both(kinds[sample.name], sums[key], sample.value) if key in sums else sample.value
    return [Sample(name, labels, value) for (name, labels), value in sums.items()]


def content_type(accept: str) -> str:
    """Return in which of the two formats to answer a scraper that takes `accept`."""
    return OPEN_TYPE if "application/openmetrics-text" in accept.lower() else TEXT_TYPE


def write(samples: Iterable[Sample], *, kind: str = TEXT_TYPE) -> bytes:
    """Return the text, in the order of the table of metrics."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    is_open = kind == OPEN_TYPE
    lines: list[str] = []
    for row in METRICS:
        if found := by_name.get(row.name):
            lines += _head(row, is_open=is_open)
            for sample in sorted(found, key=lambda each: each.labels):
                lines += _lines(row, sample)
    if is_open:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines).encode()


def _head(row: Metric, *, is_open: bool) -> list[str]:
    # In OpenMetrics a counter's family is named without the suffix of its samples.
    family = row.exposed if is_open or row.kind is not MetricKind.COUNT else f"{row.exposed}_total"
    kind = _TYPES[row.kind]
    head = [f"# HELP {family} {row.description.translate(_ESCAPED_HELP)}", f"# TYPE {family} {kind}"]
    if is_open and row.exposed.endswith("_seconds"):
        head.append(f"# UNIT {family} seconds")
    return head


def _lines(row: Metric, sample: Sample) -> list[str]:
    labels = dict(zip(row.labels, sample.labels, strict=True))
    value = sample.value
    if isinstance(value, Buckets):
        return _histogram(row, labels, value)
    suffix = "_total" if row.kind is MetricKind.COUNT else ""
    shown = value if row.scale == 1 else value * row.scale
    return [f"{row.exposed}{suffix}{_shown(labels)} {_number(shown)}"]


def _histogram(row: Metric, labels: Mapping[str, str], value: Buckets) -> list[str]:
    lines, seen = [], 0
    # Rounded, or a thousandth of a decimal number would show what binary ones are.
    ends = (*(_number(round(end * row.scale, 9)) for end in row.buckets), "+Inf")
    for end, count in zip(ends, value.counts, strict=True):
        seen += count
        lines.append(f"{row.exposed}_bucket{_shown({**labels, 'le': end})} {seen}")
    lines.append(f"{row.exposed}_sum{_shown(labels)} {_number(value.total * row.scale)}")
    lines.append(f"{row.exposed}_count{_shown(labels)} {seen}")
    return lines


def _shown(labels: Mapping[str, str]) -> str:
    return (
        "{" + ",".join(f'{name}="{text.translate(_ESCAPED)}"' for name, text in labels.items()) + "}" if labels else ""
    )


def _number(value: float) -> str:
    return repr(value)


def _both(kind: MetricKind, one: Value, other: Value) -> Value:
    if isinstance(one, Buckets) and isinstance(other, Buckets):
        counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
        return Buckets(counts, one.total + other.total)
    if isinstance(one, Buckets) or isinstance(other, Buckets):
        raise TypeError("a histogram and a number are no values of one metric")
    return max(one, other) if kind is MetricKind.PEAK else one + other


_TYPES: Final = {
    MetricKind.COUNT: "counter",
    MetricKind.HISTOGRAM: "histogram",
    MetricKind.GAUGE: "gauge",
    MetricKind.PEAK: "gauge",
}
