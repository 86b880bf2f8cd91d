"""Programs of our own run within limits: in a session of their own, ended whole, with none of our secrets.

What they are given may be hostile, huge, or crash what it is given to; none of that may reach whoever starts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio.subprocess import Process

_LIMITS = Path(__file__).with_name("limits.py")
_PROC = Path("/proc")
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """What one process may use."""

    cpu_s: int
    address_space_bytes: int
    file_bytes: int


async def start(
    command: tuple[str, ...], limits: ProcessLimits, *, folder: Path, stderr: int, line_bytes: int
) -> Process:
    """Start a program whose temporary files go to `folder`/tmp; lines of its stdout may have `line_bytes`.

    Raises:
        OSError: it did not start.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        # Safe path: beside the wrapper lie packages with the names of standard ones.
        "-P",
        str(_LIMITS),
        f"--address-space-bytes={limits.address_space_bytes}",
        f"--cpu-s={limits.cpu_s}",
        f"--file-bytes={limits.file_bytes}",
        f"--parent={os.getpid()}",
        "--",
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        limit=line_bytes,
        # A group of its own, so that whatever it starts ends with it.
        start_new_session=True,
        env=_environment(folder),
    )


async def end(process: Process) -> None:
    """Kill all that descends from the program, sessions of their own or not, and reap the program."""
    for pid in _descendants(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await process.wait()


def tail(path: Path) -> str:
    """Return the end of what a program said."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace")


def _descendants(ancestor: int) -> list[int]:
    """Return the processes below one, while it lives; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name of a program may hold brackets and blanks; what follows its last bracket is state and parent.
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _environment(folder: Path) -> dict[str, str]:
    """Return this process's environment without our own settings, which may hold secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LITEFLEET_")}
    # Safe path: whoever starts it may stand in a folder of downloaded models, whose files are no modules of ours.
    return {**kept, "TMPDIR": str(folder / "tmp"), "HOME": str(folder / "tmp"), "PYTHONSAFEPATH": "1"}
