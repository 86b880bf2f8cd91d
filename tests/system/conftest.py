"""What the system tests share: real models, trained once for the whole run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from controller.demo.school import VARIANTS

if TYPE_CHECKING:
    from pathlib import Path

_TRAINED_WITHIN_S = 300


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's models, one folder a variant: two good ones and a wrong one."""
    folder = tmp_path_factory.mktemp("trained")
    for variant in VARIANTS:
        command = [sys.executable, "-m", "converters.examples.digits", "--out", str(folder / variant)]
        subprocess.run(
            [*command, "--variant", variant], check=True, capture_output=True, text=True, timeout=_TRAINED_WITHIN_S
        )
    return folder
