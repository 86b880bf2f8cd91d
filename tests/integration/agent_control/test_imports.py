"""What the control process carries in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = ("numpy", "ai_edge_litert", "tflite_runtime", "PIL", "pydantic", "sqlalchemy", "sqlmodel", "tuf", "tensorflow")


def test_control_process_imports_nothing_heavy() -> None:
    code = f"import sys, agent.control; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
