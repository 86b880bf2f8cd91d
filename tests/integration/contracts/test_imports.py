"""Each import contract is kept by the house's skeleton, and broken by one planted bad import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYPROJECT = ROOT / "pyproject.toml"
CONFIGURATION = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]
LINTER = Path(sys.executable).with_name("lint-imports")
LINT_S = 60

CONTRACTS = {contract["id"]: contract for contract in CONFIGURATION["contracts"]}
# Folders of the controller that decide something of their own, and so are domains.
DOMAINS = sorted({path.parent.name for path in ROOT.glob("controller/*/core")})
CORES = ("agent.core", *(f"controller.{domain}.core" for domain in DOMAINS))


def skeleton(target: Path) -> Path:
    """Copy the house's modules without what is in them, so that only a planted import can break a contract."""
    for package in CONFIGURATION["root_packages"]:
        for source in sorted((ROOT / package).rglob("*.py")):
            copy = target / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
    (target / "pyproject.toml").write_text(PYPROJECT.read_text())
    return target


def lint(folder: Path) -> tuple[set[str], str]:
    """Return the names of the broken contracts, and all that the linter said."""
    run = subprocess.run(
        [str(LINTER), "--no-cache", "--no-logo"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=LINT_S,
    )
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)\b", run.stdout, re.MULTILINE))
    assert len(verdicts) == len(CONTRACTS), run.stdout + run.stderr
    return {name for name, verdict in verdicts.items() if verdict == "BROKEN"}, run.stdout


def plant(folder: Path, imports: dict[str, str]) -> None:
    """Write modules (by dotted name) that hold one import statement each."""
    for module, statement in imports.items():
        path = folder / Path(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{statement}\n")


def test_skeleton_unplanted_keeps_every_contract(tmp_path: Path) -> None:
    broken, said = lint(skeleton(tmp_path))
    assert broken == set(), said


@pytest.mark.parametrize(
    ("contract", "imports"),
    [
        pytest.param("siblings", {"agent.planted": "import controller"}, id="agent-to-controller"),
        pytest.param("siblings", {"controller.planted": "import converters"}, id="controller-to-converters"),
        pytest.param("siblings", {"converters.planted": "from agent import core"}, id="converters-to-agent"),
        pytest.param("siblings", {"shared.planted": "import agent.core"}, id="shared-upwards"),
        pytest.param("pure-cores", {"agent.core.planted": "import time"}, id="core-to-stdlib"),
        pytest.param("pure-cores", {"agent.core.planted": "def late():\n    import random"}, id="core-late"),
        pytest.param(
            "pure-cores",
            {"controller.rollouts.core.planted": "import shared.middle", "shared.middle": "import socket"},
            id="core-indirect",
        ),
        pytest.param("pure-cores", {"controller.rollouts.core.gates.planted": "import structlog"}, id="core-deeper"),
        pytest.param("pure-cores", {"converters.plan": "import subprocess"}, id="converters-plan"),
        pytest.param("pure-cores", {"shared.wire": "import uuid"}, id="shared-wire"),
        pytest.param("pure-cores", {"shared.manifest": "import os"}, id="shared-manifest"),
        pytest.param("pure-cores", {"shared.metrics": "from time import time"}, id="shared-metrics"),
        pytest.param("frameworks", {"agent.serving.planted": "import tensorflow as tf"}, id="agent-tensorflow"),
        pytest.param("frameworks", {"shared.runtime.planted": "from keras import layers"}, id="shared-keras"),
        pytest.param(
            "frameworks", {"controller.planted": "import shared.middle", "shared.middle": "import onnx"}, id="indirect"
        ),
        pytest.param(
            "no-runtime-in-controller", {"controller.fleet.planted": "import shared.runtime"}, id="runtime-direct"
        ),
        pytest.param(
            "no-runtime-in-controller",
            {"controller.planted": "import shared.middle", "shared.middle": "from shared.runtime import planted"},
            id="runtime-indirect",
        ),
        pytest.param("no-runtime-in-controller", {"controller.planted": "import numpy as np"}, id="controller-numpy"),
        pytest.param("small-agent", {"agent.planted": "from pydantic import BaseModel"}, id="agent-pydantic"),
        pytest.param(
            "small-agent", {"agent.planted": "import shared.middle", "shared.middle": "import sqlmodel"}, id="agent-sql"
        ),
        pytest.param(
            "independent-domains", {"controller.rollouts.planted": "import controller.fleet.core"}, id="domain-direct"
        ),
        pytest.param(
            "independent-domains",
            {"controller.registry.planted": "import controller.middle", "controller.middle": "import controller.fleet"},
            id="domain-indirect",
        ),
    ],
)
def test_planted_import_breaks_its_contract_alone(tmp_path: Path, contract: str, imports: dict[str, str]) -> None:
    folder = skeleton(tmp_path)
    plant(folder, imports)
    broken, said = lint(folder)
    assert broken == {CONTRACTS[contract]["name"]}, said


def test_core_importing_each_forbidden_module_is_told_of_each(tmp_path: Path) -> None:
    folder = skeleton(tmp_path)
    forbidden = CONTRACTS["pure-cores"]["forbidden_modules"]
    statement = "\n".join(f"import {module}" for module in forbidden)
    plant(folder, {f"{core}.planted": statement for core in CORES})
    _, said = lint(folder)
    missed = [(core, m) for core in CORES for m in forbidden if f"{core}.planted -> {m}" not in said]
    assert missed == []


def test_database_listing_tables_keeps_domains_independent(tmp_path: Path) -> None:
    folder = skeleton(tmp_path)
    listing = "\n".join(f"import controller.{domain}.tables" for domain in DOMAINS)
    plant(folder, {f"controller.{domain}.tables": "" for domain in DOMAINS})
    plant(folder, {"controller.db.tables": listing, "controller.fleet.planted": "import controller.db.tables"})
    broken, said = lint(folder)
    assert broken == set(), said


def test_every_domain_is_held_to_independence() -> None:
    independent = CONTRACTS["independent-domains"]["modules"]
    assert [domain for domain in DOMAINS if f"controller.{domain}" not in independent] == []
