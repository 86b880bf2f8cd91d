from __future__ import annotations

import pytest

from agent.serving.protocols.exposition import OPEN_TYPE, TEXT_TYPE, Buckets, Sample, content_type, merged, write
from shared.metrics import BY_NAME

REQUESTS = Sample("requests", ("digits", "3", "main", "oip"), 7)


def lines(*samples: Sample, kind: str = TEXT_TYPE) -> list[str]:
    """Return the text without its help."""
    return [line for line in write(samples, kind=kind).decode().splitlines() if not line.startswith("# HELP")]


def test_counter_is_written_with_its_suffix_and_labels() -> None:
    assert lines(REQUESTS) == [
        "# TYPE litefleet_requests_total counter",
        'litefleet_requests_total{model="digits",version="3",variant="main",protocol="oip"} 7',
    ]


def test_counters_family_has_no_suffix_in_openmetrics_and_the_text_has_an_end() -> None:
    text = lines(REQUESTS, kind=OPEN_TYPE)
    assert text[0] == "# TYPE litefleet_requests counter"
    assert text[-1] == "# EOF"


def test_histogram_is_cumulative_and_in_seconds() -> None:
    row = BY_NAME["latency_ms"]
    counts = tuple([0, 2] + [0] * (len(row.buckets) - 2) + [1])
    text = lines(Sample("latency_ms", ("digits", "3", "main", "oip"), Buckets(counts, 61_500.0)), kind=OPEN_TYPE)
    labels = 'model="digits",version="3",variant="main",protocol="oip"'
    assert f'litefleet_latency_seconds_bucket{{{labels},le="5e-05"}} 2' in text
    assert f'litefleet_latency_seconds_bucket{{{labels},le="0.0001"}} 2' in text
    assert f'litefleet_latency_seconds_bucket{{{labels},le="+Inf"}} 3' in text
    assert f"litefleet_latency_seconds_sum{{{labels}}} 61.5" in text
    assert f"litefleet_latency_seconds_count{{{labels}}} 3" in text
    assert "# UNIT litefleet_latency_seconds seconds" in text


def test_label_that_would_break_the_line_is_escaped() -> None:
    (_, line) = lines(Sample("classes", ("digits", "3", "main", 'a"b\\c\nd'), 1))
    assert line == 'litefleet_classes_total{model="digits",version="3",variant="main",class="a\\"b\\\\c\\nd"} 1'


def test_metric_without_labels_has_no_braces() -> None:
    assert lines(Sample("processes", (), 1))[1] == "litefleet_processes 1"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT_TYPE),
        ("*/*", TEXT_TYPE),
        ("text/plain;version=0.0.4", TEXT_TYPE),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3", OPEN_TYPE),
    ],
)
def test_format_is_what_the_scraper_takes(accept: str, kind: str) -> None:
    assert content_type(accept) == kind


def test_processes_that_share_a_port_are_added_up_and_the_worst_of_drift_counts() -> None:
    who = ("digits", "3", "main")
    bucket = Sample("batch_items", (*who, "oip"), Buckets((1, 2), 3.0))
    one = [REQUESTS, bucket, Sample("drift_psi", (*who, "confidence"), 0.1), Sample("processes", (), 1)]
    other = [REQUESTS, bucket, Sample("drift_psi", (*who, "confidence"), 0.3), Sample("processes", (), 1)]
    by_name = {sample.name: sample.value for sample in merged([one, other])}
    assert by_name == {"requests": 14, "batch_items": Buckets((2, 4), 6.0), "drift_psi": 0.3, "processes": 2}
