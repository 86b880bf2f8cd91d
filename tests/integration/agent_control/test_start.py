"""How the control process ends when it cannot begin, for the supervisor goes by its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("identity", "code"), [(None, os.EX_CONFIG), (b"rot", os.EX_DATAERR)], ids=["never enrolled", "rotted"]
)
def test_control_without_a_usable_identity_says_so_by_its_exit_code(
    tmp_path: Path, identity: bytes | None, code: int
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path}"\n')
    if identity is not None:
        (tmp_path / "identity").mkdir()
        (tmp_path / "identity" / "identity.json").write_bytes(identity)
    command = [sys.executable, "-m", "agent.control", "--config", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    assert b"identity" in done.stderr
