"""Unix sockets by path, and listening sockets passed between processes. Stdlib only: the supervisor uses it."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_PASSED = 8
"""Listening sockets in one hand-over: one an address family, and room."""

# The kernel takes 107 bytes of path; a state folder may lie deeper than that.
_LONGEST_PATH = 100
_BACKLOG = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What a running serving process gives to a supervisor that finds it."""

    pid: int
    sockets: tuple[socket.socket, ...]


def numbered(stem: str, number: int) -> str:
    """Return what belongs to one of several serving processes; the first one's is named as if it were alone."""
    return f"{stem}-{number}" if number else stem


def listen_unix(path: Path, *, mode: int = 0o600, group_id: int = -1, backlog: int = _BACKLOG) -> socket.socket:
    """Listen at `path`, for its owner unless `mode` says more, in place of what a process that died has left there.

    Only the owner of the state folder's lock may call this. `group_id` is who else may connect; -1 leaves it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(listener.close)
        with _short(path) as address:
            listener.bind(address)
        # Nobody else can have come in before this: no umask lets others write, and nothing listens yet.
        os.chown(path, -1, group_id)
        path.chmod(mode)
        listener.listen(backlog)
        listener.setblocking(False)
        undo.pop_all()
    return listener


def connect_unix(path: Path, *, timeout_s: float) -> socket.socket:
    """Connect to `path`. Raises OSError when nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with _short(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def hand_over(connection: socket.socket, sockets: Sequence[socket.socket]) -> None:
    """Send this process's id and its listening sockets (SCM_RIGHTS), and close the connection."""
    with connection:
        socket.send_fds(connection, [str(os.getpid()).encode()], [each.fileno() for each in sockets])


def take_over(path: Path, *, timeout_s: float) -> Handover:
    """Ask the process at `path` for its listening sockets. Raises OSError when nobody answers in time."""
    with connect_unix(path, timeout_s=timeout_s) as connection:
        text, fds, _, _ = socket.recv_fds(connection, 64, MAX_PASSED)
    sockets = tuple(socket.socket(fileno=fd) for fd in fds)
    if not text.isdigit() or not sockets:
        raise ConnectionAbortedError(f"{path} did not hand over its sockets")
    for each in sockets:
        each.set_inheritable(False)
    return Handover(pid=int(text), sockets=sockets)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Name `path` in few bytes, by way of an open descriptor of its folder."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
