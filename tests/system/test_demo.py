"""The demo on a machine without mosquitto: the whole job, every claim asserted, over the broker written in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from controller.demo.claims import Claims, broken

_REPOSITORY = Path(__file__).parents[2]
_DEVICES = 4
_TIMEOUT_S = 600.0
"""It takes two minutes on two idle cores, and may share them."""


@pytest.mark.timeout(_TIMEOUT_S)
def test_demo_without_mosquitto_holds_every_claim() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from controller.cli import main; main()"),
            *("demo", "--ci", "--broker", "amqtt", "--devices", str(_DEVICES)),
        ],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    claims = msgspec.json.decode(done.stdout.splitlines()[-1], type=Claims)
    assert broken(claims, devices=_DEVICES) == ""
    assert "for trying out only" in done.stdout
