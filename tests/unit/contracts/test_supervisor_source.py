"""The supervisor must outlive everything: it stands on the standard library alone, and can be read at one sitting."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SUPERVISOR = ROOT / "agent" / "__main__.py"
LINES_AT_MOST = 150


def imported_roots(source: str) -> set[str]:
    """Return the top-level names that a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | members}


def test_supervisor_imports_the_standard_library_only() -> None:
    assert imported_roots(SUPERVISOR.read_text()) - sys.stdlib_module_names == set()


def test_package_that_runs_first_imports_nothing() -> None:
    assert imported_roots((ROOT / "agent" / "__init__.py").read_text()) == set()


def test_supervisor_is_short_enough_to_read_at_once() -> None:
    assert len(SUPERVISOR.read_text().splitlines()) <= LINES_AT_MOST
