"""`litefleet[agent]` installed alone runs: an environment of the agent's lock and nothing else imports all of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "deploy" / "locks" / "agent.txt"
# Kept between runs, since the environment follows from lock and interpreter alone.
CACHE = ROOT / ".cache"
BUILT_FROM = ["agent", "controller", "converters", "shared", "pyproject.toml", "README.md"]
ABSENT = [
    "alembic",
    "grpc",
    "keras",
    "pydantic",
    "pydantic_settings",
    "sklearn",
    "sqlalchemy",
    "sqlmodel",
    "tensorflow",
]
OF_EXTRAS = {"agent.serving.protocols.oip_grpc": "grpc"}
"""Modules that only an extra brings to life, and what each of them misses without it."""
INSTALL_S = 600

# Runs in the agent's environment: imports every module of the two packages, and tries what must not be there.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
failed, imported = {}, []
for package in ("agent", "shared"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}.", onerror=lambda name: None):
        try:
            importlib.import_module(module.name)
            imported.append(module.name)
        except Exception as error:
            failed[module.name] = repr(error)
present = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        present.append(name)
    except ModuleNotFoundError:
        pass
print(json.dumps({"failed": failed, "imported": imported, "present": present}))
"""


def uv(*arguments: str) -> None:
    """Run the uv of this environment; what it said is shown when it fails."""
    command = [str(Path(sys.executable).with_name("uv")), *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_S)
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stderr}"


def locked_environment() -> Path:
    """Return the interpreter of an environment with exactly the agent's lock, made on first use."""
    key = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    home = CACHE / f"agent-{key}"
    if not home.exists():
        for outdated in CACHE.glob("agent-*"):
            shutil.rmtree(outdated, ignore_errors=True)
        making = CACHE / f"agent-{key}.{os.getpid()}"
        uv("venv", "--quiet", "--relocatable", f"--python={sys.executable}", str(making))
        uv("pip", "install", "--quiet", f"--python={making}", "--require-hashes", f"--requirement={LOCK}")
        # Renamed when complete, so that an interrupted installation is never taken for one.
        making.rename(home)
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def agent_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a device: the agent's lock, and litefleet's own wheel as it would be shipped."""
    sources = tmp_path_factory.mktemp("sources")
    for name in BUILT_FROM:
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, sources / name)
    wheels = tmp_path_factory.mktemp("wheels")
    uv(
        *("build", "--quiet", "--wheel", "--offline", "--no-build-isolation"),
        *(f"--python={sys.executable}", f"--out-dir={wheels}", str(sources)),
    )
    (wheel,) = wheels.glob("*.whl")
    python = locked_environment()
    uv("pip", "install", "--quiet", "--offline", f"--python={python}", "--no-deps", "--reinstall", str(wheel))
    return python


@pytest.mark.timeout(INSTALL_S)
def test_agent_alone_imports_all_its_modules_and_nothing_too_much(agent_python: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [str(agent_python), "-I", "-c", IMPORT_ALL, *ABSENT],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    missing = {name: f"ModuleNotFoundError(\"No module named '{package}'\")" for name, package in OF_EXTRAS.items()}
    assert found["failed"] == missing
    assert found["present"] == []
    assert {"agent.cli", "agent.control", "agent.serving.process", "shared.wire"} <= set(found["imported"])


@pytest.mark.timeout(INSTALL_S)
def test_agent_alone_command_helps(agent_python: Path, tmp_path: Path) -> None:
    command = [str(agent_python.with_name("litefleet-agent")), "--help"]
    run = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "serve" in run.stdout
