"""Figures, drift and written requests of real serving processes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from agent.serving.recording import segments
from shared.request_log import LogConsent, LogWish
from shared.runtime import drift
from tests.support.serving import MODEL, Device, http, one_hot, plan_of
from tests.support.waiting import wait_until
from tests.support.watching import watched_slot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASKED = 40
REFERENCES = drift.references([drift.input_figures(np.array(one_hot(k % 10))) for k in range(300)])


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Two processes behind one port, with a release that consents to everything and a wish for all of it."""
    with Device(tmp_path / "state", processes=2) as made:
        slot = watched_slot(made.releases, references=REFERENCES, consent=LogConsent(inputs=True))
        wish = LogWish(model=MODEL, sample_rate=1.0)
        made.write_boot(msgspec.structs.replace(plan_of(slot), request_logs=(wish,)))
        made.start()
        made.wait_ready()
        # Manifests are read beside the serving. A dozen connections reach both processes.
        wait_until(lambda: all(_is_watched(made) for _ in range(12)), what="both processes watch")
        yield made


def scraped(device: Device) -> dict[str, float]:
    """The figures by their lines."""
    with urllib.request.urlopen(f"{device.url}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}


def written(device: Device) -> list[dict[str, Any]]:
    """What lies in the log."""
    return [json.loads(line) for line in segments.lines(device.state / "request-log")]


def test_whichever_process_is_scraped_tells_of_both(device: Device) -> None:
    for number in range(ASKED):
        # Each on a connection of its own, which the kernel gives to one of them.
        assert device.infer(number % 10).status == 200
    labels = f'model="{MODEL}",version="4",variant="main"'
    for _ in range(10):
        # One that is asked for the first time may still be connecting.
        found = wait_until(lambda: _of_both(device), what="both processes are told of")
        assert found[f'litefleet_requests_total{{{labels},protocol="oip"}}'] == ASKED
        assert found[f'litefleet_classes_total{{{labels},class="3"}}'] == ASKED / 10


def test_requests_of_both_processes_lie_in_one_log_that_outlives_them(device: Device) -> None:
    for number in range(ASKED):
        device.infer(number % 10)
    events = wait_until(lambda: found if len(found := written(device)) == ASKED else None, what="all are written")
    assert len({event["id"] for event in events}) == ASKED
    assert len({event["id"].rpartition("-")[0] for event in events}) == 2
    device.stop()
    assert len(written(device)) == ASKED
    command = [sys.executable, "-m", "agent.cli", "log", "--config", str(device.config), "--model", MODEL]
    shown = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    assert [json.loads(line)["id"] for line in shown.splitlines()] == [event["id"] for event in written(device)]


def test_drift_is_answered_for_by_model_and_version(device: Device) -> None:
    watched = sorted(each.name for each in REFERENCES)
    for path in (f"/v2/models/{MODEL}/drift", f"/v2/models/{MODEL}/versions/4/drift"):
        answer = http(f"{device.url}{path}")
        assert answer.status == 200
        (version,) = answer.body["versions"]
        assert (version["version"], version["watched"], version["drifted"]) == ("4", watched, False)
    assert http(f"{device.url}/v2/models/{MODEL}/versions/9/drift").status == 404
    assert http(f"{device.url}/v2/models/nobody/drift").status == 404


def _is_watched(device: Device) -> bool:
    (version,) = http(f"{device.url}/v2/models/{MODEL}/drift").body["versions"]
    return bool(version["watched"])


def _of_both(device: Device) -> dict[str, float] | None:
    found = scraped(device)
    return found if found["litefleet_processes"] == 2 else None
