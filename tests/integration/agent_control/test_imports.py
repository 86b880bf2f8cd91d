"""What the control process carries in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = ("numpy", "ai_edge_litert", "tflite_runtime", "PIL", "pydantic", "sqlalchemy", "sqlmodel", "tuf", "tensorflow")

MODEL_READERS = ("shared.runtime.verifier", "shared.runtime.flatbuffer", "shared.runtime.interpreter")


@pytest.mark.parametrize("process", ["agent.control", "agent.__main__", "controller.app"])
def test_process_that_must_outlive_any_model_cannot_read_one(process: str) -> None:
    # Model bytes are read by the trial child and by serving, after their digest; a signed hostile file ends neither.
    code = f"import sys, {process}; print([name for name in {MODEL_READERS!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_control_process_imports_nothing_heavy() -> None:
    code = f"import sys, agent.control; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
