from __future__ import annotations

from pathlib import Path

import pytest

from shared.metrics import METRICS, Metric, MetricKind, labelled, travels, unlabelled

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
KINDS = {
    MetricKind.COUNT: "counter",
    MetricKind.HISTOGRAM: "histogram",
    MetricKind.GAUGE: "gauge",
    MetricKind.PEAK: "gauge",
}


def as_row(metric: Metric) -> str:
    """The metric as the page has it."""
    name = metric.exposed + ("_total" if metric.kind is MetricKind.COUNT else "")
    upwards, labels = "yes" if metric.upwards else "", ", ".join(metric.labels) or "–"
    return f"| `{name}` | {KINDS[metric.kind]} | {labels} | {upwards} | {metric.description} |"


def test_page_has_every_row_of_the_table_in_order_and_no_other() -> None:
    written = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `litefleet_")]
    assert written == [as_row(metric) for metric in METRICS]


def test_every_metric_is_exposed_under_the_projects_name_in_base_units() -> None:
    for metric in METRICS:
        assert metric.exposed.startswith("litefleet_")
        assert not metric.exposed.endswith(("_ms", "_total"))


def test_only_what_can_be_added_up_travels_upwards() -> None:
    upwards = {metric.kind for metric in METRICS if metric.upwards}
    assert upwards == {MetricKind.COUNT, MetricKind.HISTOGRAM}


@pytest.mark.parametrize("label", ["cat", "a/b", "ü"])
def test_label_of_a_count_travels_with_its_name(label: str) -> None:
    name = labelled("classes", label)
    assert unlabelled(name) == ("classes", label)
    assert travels(name, MetricKind.COUNT)
    assert not travels(name, MetricKind.HISTOGRAM)


def test_unknown_metric_does_not_travel() -> None:
    assert not travels("processes", MetricKind.COUNT)
    assert not travels("unheard_of", MetricKind.COUNT)
