"""A child process of the supervisor: started, adopted, watched by pidfd, started again with backoff. Stdlib only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from pathlib import Path

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 10.0
# A child that lived this long has not crashed at its start.
_STEADY_S = 10.0


def say(text: str) -> None:
    """Write a line to stderr, where the service manager collects it; a full disk there must not end us."""
    with contextlib.suppress(OSError):
        print(f"litefleet-agent: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the supervisor loads no logging


def lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock file until its last copy is closed; None when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class Child:
    """One process that is to run. It inherits its lock, so that no second one starts while any is alive."""

    def __init__(
        self,
        name: str,
        command: list[str],
        lock_path: Path,
        *,
        sockets: tuple[socket.socket, ...] = (),
        once: tuple[str, ...] = (),
    ) -> None:
        """`once` are arguments of its first start alone: one that starts again has ended before."""
        self._name, self._command, self._lock_path, self._sockets = name, command, lock_path, sockets
        self._once = once
        self._process: subprocess.Popen[bytes] | None = None
        self._delay_s, self._started_at = _FIRST_DELAY_S, 0.0
        self.pidfd = -1
        """Readable when the process ends; -1 while there is none."""
        self.start_at = 0.0
        """When it is to start again, on the monotonic clock."""

    def adopt(self, pid: int) -> None:
        """Watch a process that a former supervisor has started. Raises OSError when it is gone."""
        # Not the number: numbers are used again, and a signal must never reach a stranger.
        self.pidfd, self._started_at, self._once = os.pidfd_open(pid), time.monotonic(), ()

    def start(self) -> None:
        """Start it, or try again soon. Its stdin is a pipe, whose end tells it that the supervisor is gone."""
        self.start_at = time.monotonic() + self._delay_s
        # Whoever still holds it (an orphan that was not adopted) must end first: two would fight over socket and
        # journal.
        held = lock(self._lock_path)
        if held is None:
            return
        fds = tuple(each.fileno() for each in self._sockets)
        command = [*self._command, *(f"--listen-fd={fd}" for fd in fds), *self._once]
        try:
            # A session of its own: Ctrl-C in a terminal reaches the supervisor alone, which stops all in order.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(held, *fds), start_new_session=True)
        except OSError as exc:
            say(f"{self._name} cannot start: {exc}")
        else:
            self._process, self._once = process, ()
            self.adopt(process.pid)
        finally:
            os.close(held)

    def ended(self) -> int:
        """Take note that it ended, plan the next start, and return its exit code (0 for an adopted process)."""
        os.close(self.pidfd)
        self.pidfd = -1
        self.close_stdin()
        code = self._process.wait() if self._process else 0
        now = time.monotonic()
        if now - self._started_at > _STEADY_S:
            self._delay_s = _FIRST_DELAY_S
        self.start_at, self._delay_s = now + self._delay_s, min(2 * self._delay_s, _LONGEST_DELAY_S)
        say(f"{self._name} ended with {code}")
        return code

    def close_stdin(self) -> None:
        """Let it read the end of its stdin."""
        if self._process and self._process.stdin:
            self._process.stdin.close()

    def send(self, number: signal.Signals) -> None:
        """Signal it if it runs."""
        if self.pidfd >= 0:
            # An adopted process may have ended, and been reaped by another, since we looked.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)
