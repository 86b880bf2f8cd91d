"""`python -P limits.py … -- COMMAND`: become COMMAND, with limits that it can never raise, one excepted.

The exception is the address space: what the command starts may be watched by what it uses, as
`converters.frontends.guard` does, since training frameworks map many times as much.

A program of its own, since a limit must be set after the fork and before the exec, and running Python there is unsafe
in a process that has threads.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# The first that the kernel takes when memory is short, before the controller.
_OOM_SCORE = "1000"
# Time between the signal that a program may answer and the one that it may not.
_CPU_GRACE_S = 1


def main(arguments: list[str]) -> int:
    """Set the limits and become the command."""
    parser = argparse.ArgumentParser(prog="limits")
    parser.add_argument("--address-space-bytes", type=int, required=True)
    parser.add_argument("--cpu-s", type=int, required=True)
    parser.add_argument("--file-bytes", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    _die_with(given.parent)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    soft = given.address_space_bytes if most == resource.RLIM_INFINITY else min(given.address_space_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (soft, most))
    resource.setrlimit(resource.RLIMIT_CPU, (given.cpu_s, given.cpu_s + _CPU_GRACE_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (given.file_bytes, given.file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.execvp(given.command[0], given.command)  # noqa: S606 - no shell: the command is the controller's own setting
    except OSError as exc:
        sys.exit(f"cannot run {given.command[0]}: {exc.strerror}")


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however it ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent ended before the kernel was asked.
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
