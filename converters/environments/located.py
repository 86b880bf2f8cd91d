"""Which environment a format needs, where its interpreter is, and what exactly is installed there."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from shared.conversion import SourceFormat
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT_VARIABLE = "LITEFLEET_WORKERS_DIR"
_LOCKS = Path(__file__).parent
_DIGEST_LETTERS = 12


class Environment(StrEnum):
    """A set of libraries that install together."""

    BASE = "base"
    """Of the interpreter that runs `python -m converters` itself."""
    TF = "tf"
    TORCH = "torch"
    ONNX = "onnx"
    JAX = "jax"
    TFLITE = "tflite"
    """The old tflite-runtime 2.14, to check artifacts on it."""


_OF_FORMAT = {
    SourceFormat.KERAS: Environment.TF,
    SourceFormat.SAVED_MODEL: Environment.TF,
    SourceFormat.TFJS: Environment.TF,
    SourceFormat.PYTORCH: Environment.TORCH,
    SourceFormat.ONNX: Environment.ONNX,
    SourceFormat.JAX: Environment.JAX,
    SourceFormat.SKLEARN: Environment.JAX,
    SourceFormat.TFLITE: Environment.BASE,
}
_MODULES = {
    Environment.BASE: (),
    Environment.TF: ("tensorflow", "keras", "ai_edge_litert"),
    Environment.TORCH: ("torch", "litert_torch", "ai_edge_litert"),
    Environment.ONNX: ("torch", "litert_torch", "onnx", "onnxsim", "onnxruntime", "ai_edge_litert"),
    Environment.JAX: ("jax", "litert_converter", "sklearn", "skops", "ai_edge_litert"),
    Environment.TFLITE: ("tflite_runtime",),
}
"""What must be importable for an interpreter to serve as an environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """An environment that can be used."""

    environment: Environment
    python: Path
    fingerprint: str
    """sha256 of every installed distribution's name and version, the Python version and the kind of machine: what is
    made by two environments of the same fingerprint is the same."""


def of_format(source_format: SourceFormat) -> Environment:
    """Return the environment whose libraries open `source_format`."""
    return _OF_FORMAT[source_format]


def locate(environment: Environment, root: Path | None) -> Located:
    """Return the running interpreter when it has all that it takes, else the environment installed below `root`.

    None stands for the user's own folder.

    Raises:
        InvalidInputError: neither is there; names the command that installs it.
    """
    if is_built_in(environment):
        found = fingerprint(sys.path, platform.python_version())
        return Located(environment=environment, python=Path(sys.executable), fingerprint=found)
    folder = folder_of(environment, root)
    python = folder / "bin" / "python"
    if not python.exists():
        raise InvalidInputError(
            field="environment",
            problem=f"the {environment} converters are not installed in {folder.parent}",
            remedy=f"litefleet converters install {environment}",
        )
    found = fingerprint(_site_packages(folder), _python_version(folder))
    return Located(environment=environment, python=python, fingerprint=found)


def is_built_in(environment: Environment) -> bool:
    """Whether the running interpreter has the environment's libraries itself."""
    return all(importlib.util.find_spec(module) is not None for module in _MODULES[environment])


def missing_modules(environment: Environment, folder: Path) -> list[str]:
    """Return which of the modules that an environment is for are not in the one at `folder`."""
    packages = [Path(path) for path in _site_packages(folder)]
    return [name for name in _MODULES[environment] if not any((path / name).is_dir() for path in packages)]


def root_folder(root: Path | None) -> Path:
    """Return where environments are installed."""
    if root is not None:
        return root
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "litefleet" / "workers"


def folder_of(environment: Environment, root: Path | None) -> Path:
    """Return where `environment` is installed, or would be: a changed lock is another environment."""
    digest = hashlib.sha256(lock_path(environment).read_bytes()).hexdigest()
    return root_folder(root) / f"{environment}-{digest[:_DIGEST_LETTERS]}"


def lock_path(environment: Environment) -> Path:
    """Return the list of what `environment` holds, with a sha256 for each file."""
    return _LOCKS / f"{environment}.txt"


def fingerprint(search_path: Iterable[str], python_version: str) -> str:
    """Return the digest of what is installed along a module search path, for a Python and this kind of machine."""
    # An uninstallation that was cut short leaves folders without a name.
    named = ((item.metadata["Name"], item) for item in metadata.distributions(path=[*search_path]))
    found = {f"{name.lower()}=={item.version}" for name, item in named if name}
    described = [*sorted(found), python_version, platform.machine()]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def _site_packages(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("lib/python*/site-packages"))]


def _python_version(folder: Path) -> str:
    # As the environment was made; asking its interpreter would cost a process.
    lines = (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    return next((line.partition("=")[2].strip() for line in lines if line.startswith("version")), "")
