"""Print one line, "N passed, N failed, N skipped", over the JUnit reports of a folder."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many tests ended how."""

    passed: int
    failed: int
    skipped: int

    @property
    def line(self) -> str:
        """The closing line; a skip is named only where there is one."""
        line = f"{self.passed} passed, {self.failed} failed"
        return f"{line}, {self.skipped} skipped" if self.skipped else line


def tally(reports: list[Path]) -> Tally:
    """Add up pytest's JUnit reports; an error in a fixture counts as a failure."""
    # The files are our own, written a moment ago: nothing hostile to parse.
    suites = [suite for report in reports for suite in ET.parse(report).iter("testsuite")]  # noqa: S314
    total = sum(int(suite.get("tests", 0)) for suite in suites)
    failed = sum(int(suite.get("failures", 0)) + int(suite.get("errors", 0)) for suite in suites)
    skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
    return Tally(passed=total - failed - skipped, failed=failed, skipped=skipped)


if __name__ == "__main__":
    sys.stdout.write(f"{tally(sorted(Path(sys.argv[1]).glob('*.xml'))).line}\n")
