"""The scripts that continuous integration runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CI = Path(__file__).parents[3] / "deploy" / "ci"

REPORT = (
    '<testsuites><testsuite tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}"/></testsuites>'
)


def counted(folder: Path) -> str:
    """Return the closing line for a folder of reports."""
    command = [sys.executable, str(CI / "count_tests.py"), str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def test_count_over_suites_adds_up_and_takes_errors_as_failures(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(REPORT.format(tests=10, failures=1, errors=0, skipped=0))
    (tmp_path / "system.xml").write_text(REPORT.format(tests=5, failures=0, errors=2, skipped=0))
    assert counted(tmp_path) == "12 passed, 3 failed\n"


def test_count_with_a_skip_names_it(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(REPORT.format(tests=10, failures=0, errors=0, skipped=4))
    assert counted(tmp_path) == "6 passed, 0 failed, 4 skipped\n"


def test_count_without_reports_is_zero(tmp_path: Path) -> None:
    assert counted(tmp_path) == "0 passed, 0 failed\n"


def test_prepare_unknown_part_is_refused_with_the_known_ones() -> None:
    run = subprocess.run([str(CI / "prepare"), "toaster"], check=False, capture_output=True, text=True, timeout=30)
    assert run.returncode == 2
    assert "no such part: toaster (python, broker, database, node, browser)" in run.stderr
