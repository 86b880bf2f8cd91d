"""The supervisor must outlive everything: it stands on the standard library alone, and can be read at one sitting."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SUPERVISOR = ROOT / "agent" / "__main__.py"
LINES_AT_MOST = 150


def imported(source: str) -> set[str]:
    """Return the dotted names that a module imports when it runs (not those for the type checker alone)."""
    tree = ast.parse(source)
    checker_only = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING"
        for statement in guard.body
        for node in ast.walk(statement)
    }
    nodes = [node for node in ast.walk(tree) if id(node) not in checker_only]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    return plain | members


def reached_from(module: str) -> set[str]:
    """Return all that importing `module` brings in, following the modules of this checkout."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = ROOT / Path(*name.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        if source.exists():
            waiting += [parent] if parent else []
            waiting += imported(source.read_text())
    return seen


def test_supervisor_stands_on_the_standard_library_alone() -> None:
    foreign = {name for name in reached_from("agent.__main__") if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("agent")} == set()


def test_control_started_by_the_supervisor_is_not_part_of_it() -> None:
    assert {"agent.control", "agent.serving.process"} & reached_from("agent.__main__") == set()


def test_package_that_runs_first_imports_nothing() -> None:
    assert imported((ROOT / "agent" / "__init__.py").read_text()) == set()


def test_supervisor_is_short_enough_to_read_at_once() -> None:
    assert len(SUPERVISOR.read_text().splitlines()) <= LINES_AT_MOST
