"""The demo on a machine without mosquitto: the whole job, every claim asserted, over the broker written in Python."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from controller.demo.claims import Claims, broken
from tests.support.waiting import wait_until

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_demo_told_to_end_takes_its_processes_along(tmp_path: Path, number: signal.Signals) -> None:
    # What a shell starts in the background ignores Ctrl-C, and so does all that it starts: the tests, and the demo.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{hearing}; from controller.cli import main; main()"
    command = [sys.executable, "-c", program, "demo", "--devices", str(_DEVICES)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=_REPOSITORY, env=environment, stdout=subprocess.DEVNULL) as demo:
        # The demo itself names no folder; the broker, the controller and the training do.
        wait_until(lambda: len(_naming(tmp_path)) >= 2, within_s=60.0, what="its processes have started")
        demo.send_signal(number)
        assert demo.wait(timeout=60) == 130
    wait_until(lambda: not _naming(tmp_path), within_s=10.0, what="they have ended")


def _naming(folder: Path) -> list[str]:
    """Return the processes that name a folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder) in path.read_text(errors="replace"):
                found.append(path.parent.name)
    return found
