"""Installs, lists and removes environments: complete under their names, or not there at all."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from typing import TYPE_CHECKING

import msgspec

from converters.environments.located import Environment, folder_of, is_built_in, lock_path, missing_modules, root_folder
from shared.errors import InvalidInputError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NEEDED_BYTES = 4 * 2**30
"""The largest takes 2.1 GB, and while it is made the packages take their own room."""
_STAGING = ".making-"
_LAST_LINES = 5


class EnvironmentState(msgspec.Struct, frozen=True, kw_only=True):
    """One environment as it stands."""

    environment: Environment
    built_in: bool
    """The running interpreter has its libraries already."""
    installed: bool
    path: str
    """Where it is installed, or would be."""
    size_bytes: int
    outdated: tuple[str, ...] = ()
    """Folders of earlier locks, which nothing uses any more."""


def install(environment: Environment, root: Path | None, say: Callable[[str], None]) -> EnvironmentState:
    """Install what the lock of `environment` names; `say` is told each step. One that is there stays as it is.

    An installation that is cut short leaves nothing under the environment's name; what it has downloaded stays in the
    cache of pip or uv, so that the next one goes on from there.

    Raises:
        InvalidInputError: the lock cannot be installed here.
        StorageFullError: the disk has no room.
    """
    target = folder_of(environment, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        if (target / "bin" / "python").exists():
            say("is installed already")
            return state(environment, root)
        if shutil.disk_usage(target.parent).free < _NEEDED_BYTES:
            raise StorageFullError(f"{target.parent} has less than {_NEEDED_BYTES // 2**30} GiB free")
        staging = target.with_name(f"{_STAGING}{target.name}")
        for leftover in (staging, target):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            _make(environment, staging, say)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    say("is ready")
    return state(environment, root)


def states(root: Path | None) -> list[EnvironmentState]:
    """Return how every environment stands that could be installed."""
    return [state(environment, root) for environment in Environment if environment is not Environment.BASE]


def state(environment: Environment, root: Path | None) -> EnvironmentState:
    """Return how one environment stands."""
    folder = folder_of(environment, root)
    installed = (folder / "bin" / "python").exists()
    return EnvironmentState(
        environment=environment,
        built_in=is_built_in(environment),
        installed=installed,
        path=str(folder),
        size_bytes=_size_bytes(folder) if installed else 0,
        outdated=tuple(str(path) for path in _folders(environment, root) if path != folder),
    )


def remove(environment: Environment, root: Path | None) -> tuple[str, ...]:
    """Remove an environment and those of its earlier locks; return their folders."""
    removed = []
    for folder in _folders(environment, root):
        with _alone(folder):
            # Out of sight first: nothing ever finds one that is half gone.
            gone = folder.with_name(f"{_STAGING}{folder.name}")
            shutil.rmtree(gone, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                folder.rename(gone)
                shutil.rmtree(gone)
                removed.append(str(folder))
    return tuple(removed)


def _folders(environment: Environment, root: Path | None) -> list[Path]:
    return sorted(path for path in root_folder(root).glob(f"{environment}-*") if path.is_dir())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let nobody else make or remove the same environment meanwhile."""
    descriptor = os.open(folder.with_name(f".{folder.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(environment: Environment, folder: Path, say: Callable[[str], None]) -> None:
    say("making an empty environment")
    venv.create(folder, symlinks=True)
    python, lock = str(folder / "bin" / "python"), str(lock_path(environment))
    say(f"installing {_packages(environment)} packages")
    uv = _uv()
    arguments = ["pip", "install", "--python", python, "--no-deps", "--require-hashes", "-r", lock]
    # uv is many times faster; where only pip knows the way out (its own configuration), pip installs the same lock.
    if uv is None or _run([*uv, *arguments], say):
        pip = ["pip", "install", "--no-deps", "--require-hashes", "-r", lock]
        # Isolated: nothing of the folder that the user stands in is run, and nothing of PYTHONPATH counts as installed.
        said = _run([python, "-I", "-m", "ensurepip"], say) or _run([python, "-I", "-m", *pip], say)
        if said:
            raise InvalidInputError(
                field="environment",
                problem=f"pip cannot install {environment}: {said}",
                remedy=_remedy(environment),
            )
    say("checking")
    missing = missing_modules(environment, folder)
    if missing:
        raise InvalidInputError(field="environment", problem=f"{environment} came without {', '.join(missing)}")


def _remedy(environment: Environment) -> str:
    remedy = "is a package index within reach, and does it have wheels for this Python and machine?"
    if "+cpu" not in lock_path(environment).read_text(encoding="utf-8"):
        return remedy
    return (
        f"{remedy} PyTorch's CPU wheels have an index of their own: "
        "name it in PIP_EXTRA_INDEX_URL, or a folder of such wheels in PIP_FIND_LINKS"
    )


def _uv() -> list[str] | None:
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-P", "-m", "uv"]
    found = shutil.which("uv")
    return [found] if found else None


def _packages(environment: Environment) -> int:
    lines = lock_path(environment).read_text(encoding="utf-8").splitlines()
    return len({line.partition("==")[0] for line in lines if line[:1].isalnum()})


def _run(command: list[str], say: Callable[[str], None]) -> str:
    """Run an installer, and pass on what it says; return its last lines if it fails, else ""."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        lines: list[str] = []
        for line in process.stdout or ():
            if line.strip():
                lines = [*lines[1 - _LAST_LINES :], line.strip()]
                say(line.strip())
    return "" if process.returncode == 0 else " / ".join(lines) or f"exit code {process.returncode}"


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
