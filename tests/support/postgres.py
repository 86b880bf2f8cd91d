"""A throw-away PostgreSQL cluster on a free loopback port; an installed service is neither used nor disturbed."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import ProgramMissingError, find_program, stop_process
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType

_OWNER = "litefleet"
_PROGRAMS = ("initdb", "postgres", "createdb")
# Distributions keep each major version in a folder of its own, off the PATH.
_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
_START_S = 30.0
# A port that was free a moment ago may be another's by now.
_START_ATTEMPTS = 3
_PORT_TAKEN = "Address already in use"
# The cluster lives for one test run, so nothing in it must survive a power cut; but a server that is killed must find
# what it committed, since tests do that to it.
_SPEED = ("fsync=off", "full_page_writes=off")


def find_binaries() -> Path:
    """Return the folder with the newest installed server's programs.

    Raises:
        ProgramMissingError: says what to type.
    """
    folders = [path for pattern in _FOLDERS for path in Path("/").glob(pattern.removeprefix("/"))]
    newest_first = sorted(folders, key=_major_version, reverse=True)
    on_path = shutil.which("postgres")
    # A name on PATH is often a link to the real folder, which holds the other programs too.
    candidates = [*newest_first, *([Path(on_path).resolve().parent] if on_path else [])]
    for folder in candidates:
        if all((folder / name).is_file() for name in _PROGRAMS):
            return folder
    raise ProgramMissingError("postgresql")


def _major_version(folder: Path) -> int:
    found = re.search(r"(\d+)", str(folder))
    return int(found.group(1)) if found else 0


class Postgres:
    """One server process with password authentication; `stop` and `start` again keep port and data."""

    def __init__(self) -> None:
        self._binaries = find_binaries()
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._serials = itertools.count(1)
        # Not below pytest's own folder: that is closed to the unprivileged user who must own the data, and too deep for
        # the path of a unix socket.
        self._scratch = tempfile.TemporaryDirectory(
            prefix="litefleet-postgres-", dir="/tmp", ignore_cleanup_errors=True
        )
        self.folder = Path(self._scratch.name)
        self.host = LOOPBACK
        self.port = free_port()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self._create_cluster()
            self.start()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        path = self.folder / "postgres.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the server and return when it accepts connections."""
        for _ in range(_START_ATTEMPTS):
            if self._started():
                return
            if _PORT_TAKEN not in self.log:
                break
            self.port = free_port()
        message = f"postgres did not start:\n{self.log}"
        raise RuntimeError(message)

    def stop(self) -> None:
        """End the server and every connection to it."""
        if self._process is not None and self._process.poll() is None:
            # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients to leave.
            self._process.send_signal(signal.SIGINT)
        if self._process is not None:
            try:
                self._process.wait(_START_S)
            except subprocess.TimeoutExpired:
                stop_process(self._process)
        self._process = None

    def create_database(self) -> str:
        """Create an empty database and return its URL, `postgresql+asyncpg://…`."""
        name = f"test_{next(self._serials)}"
        createdb = [str(self._binaries / "createdb"), "-h", self.host, "-p", str(self.port), "-U", _OWNER, name]
        environment = {**os.environ, "PGPASSWORD": self._password}
        subprocess.run(createdb, env=environment, check=True, capture_output=True, timeout=_START_S)
        return f"postgresql+asyncpg://{_OWNER}:{self._password}@{self.host}:{self.port}/{name}"

    def _create_cluster(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self._password)
        _give_away(self.folder)
        _give_away(secret)
        initdb = [
            *_unprivileged(),
            str(self._binaries / "initdb"),
            f"--pgdata={self.folder / 'data'}",
            f"--username={_OWNER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        made = subprocess.run(initdb, cwd="/", check=False, capture_output=True, text=True, timeout=_START_S)
        if made.returncode != 0:
            message = f"initdb failed:\n{made.stdout}{made.stderr}"
            raise RuntimeError(message)

    def _close(self) -> None:
        self.stop()
        self._scratch.cleanup()

    def _started(self) -> bool:
        options = [f"-c{option}" for option in _SPEED]
        serve = [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder), *options]
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = process = subprocess.Popen(
                [*_unprivileged(), *serve, "-h", self.host, "-p", str(self.port)],
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(
            lambda: process.poll() is not None or self._ready(), within_s=_START_S, what="postgres is ready or ends"
        )
        return process.poll() is None

    def _ready(self) -> bool:
        """Read the state line that the server itself keeps in its pid file (line 8)."""
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        state_line = 7
        return len(lines) > state_line and lines[state_line].strip() == "ready"


def _unprivileged() -> list[str]:
    """Return the prefix under which PostgreSQL agrees to run: it refuses root."""
    if os.geteuid() != 0:
        return []
    account = _account()
    setpriv = str(find_program("setpriv"))
    return [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        account = _account()
        os.chown(path, account.pw_uid, account.pw_gid)


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
