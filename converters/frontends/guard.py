"""`python -I guard.py SETTINGS COMMAND…`: runs a command and ends it, with all that it started, when it takes too much.

A process of its own between the caller and the command: it adopts whatever the command leaves behind, so that nothing
escapes by forking, and it ends everything when the caller is gone, however that ended. Only the standard library.

It bounds frameworks, not attackers: code of theirs in the command, of the same user, could kill this process first and
live on. That none gets that far is what the loaders' checks are for.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

_POLL_S = 0.1
_SHARE = 20
"""Looking around may take a twentieth of one core; with thousands of processes on the machine it looks less often."""
_MAX_POLL_S = 1.0
_DATA_SLACK_BYTES = 2 * 2**30
"""Memory that is reserved and never touched, as thread stacks are, is not counted; an allocation far beyond any use
fails at once."""
_CPU_GRACE_S = 2
_END_S = 2.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


class Breach(StrEnum):
    """Which limit was broken."""

    MEMORY = "memory"
    CPU = "cpu"
    WALL = "wall"
    FILES = "files"
    PROCESSES = "processes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a command and all that it starts may use together."""

    wall_s: float = 1800.0
    cpu_s: float = 3600.0
    memory_bytes: int = 8 * 2**30
    file_bytes: int = 8 * 2**30
    """Of each file, and of all files in the scratch folder together."""
    processes: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the guard is told."""

    limits: Limits
    scratch: str
    leash: int
    """Descriptor that reads as ended when the caller lets go or is gone."""
    report: int
    """Descriptor for the Report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a command ended."""

    breach: Breach | None = None
    code: int | None = None
    """Exit code, negative for a signal; None when it was ended here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    pid: int
    parent: int
    cpu_s: float
    """With that of its children that it has waited for."""
    resident_bytes: int


def main(arguments: list[str]) -> int:
    """Run the command until it ends, breaks a limit, or is not wanted any more."""
    told = json.loads(arguments[0])
    settings = Settings(**{**told, "limits": Limits(**told["limits"])})
    ended_children = _adopt_orphans()
    worker = _start(arguments[1:], settings)
    report = _watch(worker, settings, ended_children)
    _end_all(worker)
    # Nobody reads it when the caller is gone.
    with contextlib.suppress(BrokenPipeError):
        os.write(settings.report, json.dumps(asdict(report)).encode())
    return 0


def _adopt_orphans() -> int:
    """Become the parent of whoever loses his own; return a descriptor that says when some child has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _start(command: list[str], settings: Settings) -> int:
    guard = os.getpid()
    # No thread runs here, so that Python may go on after the fork.
    worker = os.fork()
    if worker == 0:
        _become(command, settings, guard)
    # The worker alone holds its streams: their end is its end.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return worker


def _become(command: list[str], settings: Settings, guard: int) -> None:
    try:
        os.setsid()
        os.close(settings.leash)
        os.close(settings.report)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _die_with(guard)
        _set_limits(settings.limits)
        os.execv(command[0], command)  # noqa: S606 - no shell: the caller's own interpreter and module
    except OSError as exc:
        sys.stderr.write(f"cannot run {command[0]}: {exc.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def _die_with(guard: int) -> None:
    if sys.platform == "linux":
        # The first that the kernel takes when memory is short, before the caller.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)


def _set_limits(limits: Limits) -> None:
    # What the kernel can see by itself it stops at once; the rest, and the sum over children, is watched.
    _set_limit(resource.RLIMIT_CPU, int(limits.cpu_s) + _CPU_GRACE_S)
    _set_limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _set_limit(resource.RLIMIT_DATA, limits.memory_bytes + _DATA_SLACK_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)
    # The caller's own, which is tight for a framework: it maps many times what it uses, and that is watched here.
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _set_limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _watch(worker: int, settings: Settings, ended_children: int) -> Report:
    begin = time.monotonic()
    while True:
        code = _reap(worker)
        if code is not None:
            return Report(code=code)
        looked = time.monotonic()
        breach = _breach(settings, wall_s=looked - begin)
        if breach is not None:
            return Report(breach=breach)
        pause_s = min(_MAX_POLL_S, max(_POLL_S, (time.monotonic() - looked) * _SHARE))
        ready, _, _ = select.select([settings.leash, ended_children], [], [], pause_s)
        if settings.leash in ready:
            return Report()
        if ended_children in ready:
            os.read(ended_children, 4096)


def _reap(worker: int) -> int | None:
    """Wait for every child that has ended; return the worker's exit code if it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == worker:
                code = os.waitstatus_to_exitcode(status)
    return code


def _breach(settings: Settings, *, wall_s: float) -> Breach | None:
    limits = settings.limits
    processes = _descendants()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = sum(process.cpu_s for process in processes) + ended.ru_utime + ended.ru_stime
    if wall_s > limits.wall_s:
        return Breach.WALL
    if cpu_s > limits.cpu_s:
        return Breach.CPU
    if len(processes) > limits.processes:
        return Breach.PROCESSES
    if _memory_bytes(processes, limits.memory_bytes) > limits.memory_bytes:
        return Breach.MEMORY
    if _folder_bytes(settings.scratch) > limits.file_bytes:
        return Breach.FILES
    return None


def _memory_bytes(processes: list[_Process], limit_bytes: int) -> int:
    resident = sum(process.resident_bytes for process in processes)
    # Children share most pages with their parent, which takes longer to find out: only where it matters.
    if resident <= limit_bytes or len(processes) == 1:
        return resident
    return sum(_proportional_bytes(process) for process in processes)


def _proportional_bytes(process: _Process) -> int:
    try:
        text = (_PROC / str(process.pid) / "smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return process.resident_bytes
    sizes = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
    return int(sizes[0]) * 1024 if sizes else process.resident_bytes


def _folder_bytes(folder: str) -> int:
    total, waiting = 0, [folder]
    while waiting:
        # Whatever is there may be gone a moment later.
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    # What it takes on the disk: a hole in a file takes nothing.
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def _descendants() -> list[_Process]:
    """Return all living processes below this one; none on systems without /proc."""
    by_parent: dict[int, list[_Process]] = defaultdict(list)
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit():
            # It may have ended since.
            with contextlib.suppress(OSError, ValueError, IndexError):
                process = _process(int(entry.name))
                by_parent[process.parent].append(process)
    found: list[_Process] = []
    waiting = [os.getpid()]
    while waiting:
        children = by_parent.pop(waiting.pop(), [])
        found.extend(children)
        waiting.extend(child.pid for child in children)
    return found


def _process(pid: int) -> _Process:
    # proc_pid_stat(5); the name before the last bracket may hold anything. The first field after it is number 3.
    fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    return _Process(
        pid=pid,
        parent=int(fields[1]),
        cpu_s=sum(map(int, fields[11:15])) / _TICKS_PER_S,
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def _end_all(worker: int) -> None:
    """Kill everything below, again and again: what forks while it is being killed leaves more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        _reap(worker)
        processes = _descendants()
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
