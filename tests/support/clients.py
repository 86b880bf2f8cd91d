"""Other people's clients and servers, installed once for all tests from a lock each, in environments of their own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[1]
_INSTALL_S, _RUN_S = 600, 100


def environment(lock: str = "clients", *, python: str = sys.executable) -> Path:
    """Return the `bin` folder of what `outside/{lock}.txt` names, installed for `python` if it is not there yet.

    That takes the network, and a minute.
    """
    listed = _HERE / "outside" / f"{lock}.txt"
    digest = hashlib.sha256(listed.read_bytes() + python.encode()).hexdigest()[:12]
    folder = _CHECKOUT / ".cache" / f"{lock}-{digest}"
    done = folder / "installed"
    if not done.exists():
        uv, inside = str(Path(sys.executable).with_name("uv")), str(folder / "bin" / "python")
        subprocess.run([uv, "venv", "-q", "--clear", "--python", python, str(folder)], check=True)
        command = [uv, "pip", "sync", "-q", "--require-hashes", "--python", inside, str(listed)]
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
