"""Prometheus' own parsers, unchanged: `prometheus_scrape.py URL`; prints what they read of both formats as JSON."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

from prometheus_client import parser  # type: ignore[import-not-found]  # in an environment of its own
from prometheus_client.openmetrics import parser as open_parser  # type: ignore[import-not-found]  # as above

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def fetch(url: str, accept: str) -> tuple[str, str]:
    """Scrape; returns the content type and the text."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def read(url: str, accept: str) -> dict[str, Any]:
    """Return every sample by family."""
    kind, text = fetch(url, accept)
    reader = open_parser if "openmetrics" in kind else parser
    families = {
        family.name: {
            "type": family.type,
            "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
        }
        for family in reader.text_string_to_metric_families(text)
    }
    return {"kind": kind, "families": families}


if __name__ == "__main__":
    sys.stdout.write(json.dumps([read(sys.argv[1], accept) for accept in ("text/plain", OPEN_METRICS)]))
