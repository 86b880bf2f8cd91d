"""System programs that tests run: found, or missed with the line that brings them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# A daemon's folder is often not on an ordinary user's PATH.
_DAEMON_FOLDERS = (Path("/usr/sbin"), Path("/usr/local/sbin"), Path("/opt/homebrew/sbin"))
_STOP_S = 10.0


class ProgramMissingError(RuntimeError):
    """A system program that a test needs is not installed; tests fail rather than skip."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed; type: deploy/ci/prepare")
        self.name = name


def find_program(name: str) -> Path:
    """Return the path of a program on PATH or among the daemons.

    Raises:
        ProgramMissingError: says what to type.
    """
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    for folder in _DAEMON_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise ProgramMissingError(name)


def stop_process(process: subprocess.Popen[bytes] | None) -> None:
    """Ask a child to end, insist after a while, and reap it; an ended or absent child is fine."""
    if process is None:
        return
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)


def lives(pid: int) -> bool:
    """Say whether a process runs; one that nobody has reaped yet is as good as gone."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
