"""What ruff's TID251 forbids, planted in every place that must not use it and in those that may."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RUFF = Path(sys.executable).with_name("ruff")
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
BANNED = sorted(RULES["flake8-tidy-imports"]["banned-api"])
ALLOWED_FILES = ["agent/control.py", "agent/serving/process.py", "controller/app.py", "shared/clock.py"]

PLANTED = {
    "asyncio.create_task": "import asyncio\nasyncio.create_task(work())\n",
    "asyncio.ensure_future": "from asyncio import ensure_future\nensure_future(work())\n",
    "asyncio.gather": "import asyncio as aio\naio.gather(work())\n",
    "datetime.date.today": "from datetime import date\ndate.today()\n",
    "datetime.datetime.now": "from datetime import UTC, datetime\ndatetime.now(UTC)\n",
    "datetime.datetime.today": "import datetime as dt\ndt.datetime.today()\n",
    "datetime.datetime.utcnow": "import datetime\ndatetime.datetime.utcnow()\n",
    "time.time": "from time import time\ntime()\n",
    "time.time_ns": "import time\ntime.time_ns()\n",
    "unittest.mock": "from unittest.mock import patch\n",
    "uuid.uuid1": "import uuid\nuuid.uuid1()\n",
    "uuid.uuid4": "from uuid import uuid4\nuuid4()\n",
}


def complaints(source: str, path: str) -> str:
    """Return what ruff says of `source` if it stood at `path`."""
    command = [
        str(RUFF),
        "check",
        "--no-cache",
        "--select=TID251",
        "--output-format=concise",
        f"--stdin-filename={path}",
        "-",
    ]
    return subprocess.run(
        command, cwd=ROOT, input=source, check=False, capture_output=True, text=True, timeout=30
    ).stdout


def test_every_ban_has_a_planted_offence() -> None:
    assert sorted(PLANTED) == BANNED


@pytest.mark.parametrize("banned", BANNED)
def test_banned_call_planted_in_core_is_found(banned: str) -> None:
    assert f"`{banned}` is banned" in complaints(PLANTED[banned], "agent/core/planted.py")


@pytest.mark.parametrize(
    "path", ["controller/fleet/service.py", "converters/planted.py", "shared/ids.py", "tests/unit/test_planted.py"]
)
def test_banned_calls_planted_outside_the_roots_are_found(path: str) -> None:
    said = complaints("".join(PLANTED.values()), path)
    assert [banned for banned in BANNED if f"`{banned}` is banned" not in said] == []


def test_allowance_stands_for_composition_roots_and_clock_only() -> None:
    allowed = sorted(path for path, rules in RULES["per-file-ignores"].items() if "TID251" in rules)
    assert allowed == ALLOWED_FILES
    assert complaints(PLANTED["datetime.datetime.now"], "shared/clock.py").strip() == "All checks passed!"
