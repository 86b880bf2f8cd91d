"""The front ends' environments, installed once for all tests from the locks, as a user would install them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from converters.environments import Environment, Located, locate
from converters.environments.installed import install

CHECKOUT = Path(__file__).parents[2]
ROOT = CHECKOUT / ".cache" / "workers"
_MAKERS = Path(__file__).parent / "makers"
_RUN_S = 240


def environment(name: Environment) -> Located:
    """Return an environment, installed if it is not there yet; that takes the network, and a minute."""
    ROOT.mkdir(parents=True, exist_ok=True)
    install(name, ROOT, lambda _: None)
    return locate(name, ROOT)


def run_maker(name: Environment, maker: str, *arguments: str) -> str:
    """Run `tests/support/makers/{maker}.py` in an environment, and return what it writes to stdout."""
    command = [str(environment(name).python), str(_MAKERS / f"{maker}.py"), *arguments]
    settings = {**os.environ, "PYTHONPATH": str(CHECKOUT), "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_RUN_S, env=settings)
    if run.returncode:
        raise AssertionError(f"{maker} ended with {run.returncode}: {run.stderr[-2000:]}")
    return run.stdout
