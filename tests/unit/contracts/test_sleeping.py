"""No test sleeps for a guessed time: it waits for a condition, with a deadline."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]
# What plays the world around a test may be slow on purpose, or hang; and the waiting itself is there.
STAGE = TESTS / "support"


def sleeps(source: str) -> list[int]:
    """Return the lines that sleep; `asyncio.sleep(0)` only lets others run, and is no sleep."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        yields_only = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if name in {"sleep", "time.sleep", "asyncio.sleep"} and not yields_only:
            found.append(node.lineno)
    return found


def test_sleep_planted_is_found() -> None:
    assert sleeps("import time\ntime.sleep(1)\nfrom asyncio import sleep\nawait sleep(0.1)\n") == [2, 4]
    assert sleeps("import asyncio\nawait asyncio.sleep(0)\n") == []


def test_no_test_sleeps() -> None:
    # A benchmark leaves quiet between what it measures, and judges nothing by it.
    elsewhere = (STAGE, TESTS / "bench")
    files = sorted(path for path in TESTS.rglob("*.py") if not any(map(path.is_relative_to, elsewhere)))
    found = {str(path.relative_to(TESTS)): sleeps(path.read_text()) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}
