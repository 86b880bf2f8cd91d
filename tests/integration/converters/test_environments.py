"""Environments as a user installs them: the smallest lock, by the real installer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from converters.environments import Environment, locate
from converters.environments.located import folder_of
from shared.errors import InvalidInputError

CHECKOUT = Path(__file__).parents[3]


def run(*arguments: str, folder: Path = CHECKOUT) -> list[dict[str, Any]]:
    command = [sys.executable, "-P", "-m", "converters.environments", *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=110, cwd=folder, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_environment_is_installed_once_found_by_its_lock_and_removed(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    # What a downloaded folder may hold.
    for name in ("ensurepip", "pip", "uv"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    *steps, made = run("install", "tflite", "--root", root, folder=tmp_path)
    assert not (tmp_path / "run").exists()
    assert steps[0]["step"] == "making an empty environment"
    assert steps[-1]["step"] == "is ready"
    assert made["installed"]
    assert made["size_bytes"] > 10**7
    located = locate(Environment.TFLITE, Path(root))
    version = subprocess.run(
        [located.python, "-c", "import tflite_runtime; print(tflite_runtime.__version__)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert version.stdout.strip() == "2.14.0"
    assert run("install", "tflite", "--root", root)[0]["step"] == "is installed already"
    assert [state["environment"] for state in run("list", "--root", root) if state["installed"]] == ["tflite"]
    assert run("remove", "tflite", "--root", root) == [{"environment": "tflite", "removed": [made["path"]]}]
    with pytest.raises(InvalidInputError, match="not installed"):
        locate(Environment.TFLITE, Path(root))


def test_installation_that_was_cut_short_leaves_nothing_that_is_taken_for_one(tmp_path: Path) -> None:
    target = folder_of(Environment.TFLITE, tmp_path)
    half = target.with_name(f".making-{target.name}")
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(InvalidInputError, match="not installed"):
        locate(Environment.TFLITE, tmp_path)
    run("install", "tflite", "--root", str(tmp_path))
    assert not half.exists()
    assert locate(Environment.TFLITE, tmp_path).python.exists()


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_failed_installation_says_where_cpu_wheels_of_pytorch_are_named(tmp_path: Path, name: str) -> None:
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_NO_CONFIG": "1"}
    command = [sys.executable, "-m", "converters.environments", "install", name, "--root", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110, cwd=CHECKOUT, env=settings)
    assert done.returncode == 1
    assert f"pip cannot install {name}" in done.stderr
    assert "PIP_EXTRA_INDEX_URL" in done.stderr
    assert "PIP_FIND_LINKS" in done.stderr
    assert "://" not in done.stderr
    assert not any(tmp_path.glob("*/"))
