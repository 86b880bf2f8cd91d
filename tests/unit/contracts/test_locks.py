"""The locks pin everything by hash, agree with each other, and keep a device small."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[3]
LOCKS = ROOT / "deploy" / "locks"
PARTS = ["agent", "controller", "converters", "dev"]

TOO_MUCH_FOR_A_DEVICE = {
    "alembic",
    "keras",
    "pydantic",
    "pydantic-core",
    "scikit-learn",
    "sqlalchemy",
    "sqlmodel",
    "tensorflow",
    "tensorflow-cpu",
}
NO_BUSINESS_OF_THE_CONTROLLER = {"ai-edge-litert", "keras", "numpy", "pillow", "tensorflow", "tensorflow-cpu"}


def entries(part: str) -> list[str]:
    """Return a lock's entries, each with its hashes on one line."""
    return (LOCKS / f"{part}.txt").read_text().replace("\\\n", " ").splitlines()


def pins(part: str) -> set[str]:
    """Return `name==version ; marker` of each entry, without hashes."""
    return {entry.split("--hash")[0].strip() for entry in entries(part)}


def names(part: str) -> set[str]:
    """Return the names of the distributions that a lock installs."""
    return {pin.split("==")[0] for pin in pins(part)}


@pytest.mark.parametrize("part", PARTS)
def test_lock_entry_is_one_version_with_hashes_and_names_no_host(part: str) -> None:
    shape = re.compile(r"[a-z0-9.-]+==[^\s;]+( ; [^-]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert [entry for entry in entries(part) if not shape.fullmatch(entry) or "://" in entry] == []


@pytest.mark.parametrize("part", ["agent", "controller", "converters"])
def test_lock_of_a_part_holds_only_versions_that_the_tests_run_with(part: str) -> None:
    tested = {pin.split(" ;")[0] for pin in pins("dev")}
    assert {pin.split(" ;")[0] for pin in pins(part)} - tested == set()


def test_agent_lock_stays_small() -> None:
    assert names("agent") & TOO_MUCH_FOR_A_DEVICE == set()


def test_controller_lock_opens_no_models() -> None:
    assert names("controller") & NO_BUSINESS_OF_THE_CONTROLLER == set()


def test_every_installed_distribution_accepts_this_python() -> None:
    # pip refuses a lock with one that does not; uv, which makes the lock, looks at lower bounds only.
    python = platform.python_version()
    wanted = {dist.name: dist.metadata["Requires-Python"] or "" for dist in importlib.metadata.distributions()}
    assert {name: bound for name, bound in wanted.items() if python not in SpecifierSet(bound)} == {}


def freshness(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the check as `make check` does, in another checkout."""
    script = checkout / "deploy" / "locks" / "freshness.py"
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


def test_lock_made_before_a_new_dependency_is_stale(tmp_path: Path) -> None:
    locks = tmp_path / "deploy" / "locks"
    locks.mkdir(parents=True)
    shutil.copy(LOCKS / "freshness.py", locks)
    shutil.copy(LOCKS / "constraints.txt", locks)
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text((ROOT / "pyproject.toml").read_text())
    assert "make locks" in freshness(tmp_path).stderr
    freshness(tmp_path, "--write")
    assert freshness(tmp_path).returncode == 0
    pyproject.write_text(pyproject.read_text().replace('"msgspec>=', '"one-more", "msgspec>='))
    assert freshness(tmp_path).returncode == 1


def test_locks_of_this_checkout_are_fresh() -> None:
    assert freshness(ROOT).stderr == ""
