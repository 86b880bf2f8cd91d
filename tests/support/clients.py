"""Other people's clients, installed once for all tests from a lock, in an environment of their own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[1]
_LOCK = _HERE / "outside" / "clients.txt"
_INSTALL_S, _RUN_S = 600, 100


def environment() -> Path:
    """Return the environment's `bin` folder, installed if it is not there yet; that takes the network, and a minute."""
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]
    folder = _CHECKOUT / ".cache" / f"clients-{digest}"
    done = folder / "installed"
    if not done.exists():
        uv, python = str(Path(sys.executable).with_name("uv")), str(folder / "bin" / "python")
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
        command = [uv, "pip", "sync", "-q", "--require-hashes", "--python", python, str(_LOCK)]
        subprocess.run(command, check=True, timeout=_INSTALL_S)
        done.touch()
    return folder / "bin"


def run_client(name: str, *arguments: str) -> str:
    """Run `tests/support/outside/{name}.py` with their libraries, and return what it writes to stdout."""
    return _run([str(environment() / "python"), str(_HERE / "outside" / f"{name}.py"), *arguments])


def run_schemathesis(document: Path, url: str) -> str:
    """Ask all that a description allows, and more; returns the report, and fails where an answer is not in it."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = ["--phases", "examples,coverage,fuzzing", "--max-examples", "5", "--seed", "1", "--no-color"]
    quiet = ["--generation-database", "none", "--warnings", "off", "--continue-on-failure"]
    return _run([str(environment() / "st"), "run", str(document), "--url", url, "--checks", checks, *options, *quiet])


def _run(command: list[str]) -> str:
    settings = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_RUN_S, env=settings)
    if run.returncode:
        raise AssertionError(f"{command[0]} ended with {run.returncode}: {run.stdout[-4000:]}{run.stderr[-2000:]}")
    return run.stdout
