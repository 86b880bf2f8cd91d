"""No test sleeps for a guessed time: it waits for a condition, in a module that may sleep."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]
ROOT = TESTS.parent
MAY_SLEEP = {
    "tests/support/device_api.py",  # plays a server that trickles
    "tests/support/waiting.py",  # looks again and again, until a deadline
}


def sleeps(source: str) -> list[int]:
    """Return the lines that call something named `sleep`; `asyncio.sleep(0)` only lets others run, and is no sleep."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        yields_only = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if name == "sleep" and not yields_only:
            found.append(node.lineno)
    return found


def test_sleep_planted_is_found() -> None:
    assert sleeps("import time\ntime.sleep(1)\nfrom asyncio import sleep\nawait sleep(0.1)\n") == [2, 4]
    assert sleeps("import asyncio\nawait asyncio.sleep(0)\n") == []


def test_no_test_sleeps() -> None:
    files = {str(path.relative_to(ROOT)): path for path in TESTS.rglob("*.py")}
    found = {name: sleeps(path.read_text()) for name, path in sorted(files.items()) if name not in MAY_SLEEP}
    assert {name: lines for name, lines in found.items() if lines} == {}
