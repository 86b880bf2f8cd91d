"""What the agent must not forget, on disk: the whole AgentState in one row, replaced in one transaction.

Only the control process opens it. SQLite with WAL and synchronous=FULL: a commit that returned survives a power cut,
one that did not leaves the row before it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import msgspec

from agent.core.state import AgentState
from shared.decoding import MALFORMED
from shared.errors import StorageFullError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

REBUILT = "journal_rebuilt"
_SUFFIXES = ("", "-wal", "-shm")
_RETRY_AFTER_S = 5.0
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, None})
"""None: the integrity check complained, not SQLite itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was found."""

    state: AgentState | None
    """None on a first start, and where nothing could be read."""
    problem: str = ""
    """`journal_rebuilt: …` when what was found was moved aside."""


class Journal:
    """The journal; use as `async with`, then `open` once. All of SQLite happens in one thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._database: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def open(self) -> Opened:
        """Open it, and return what stands in it. A damaged file is moved aside, never repaired, and a new one begun.

        Raises:
            StorageFullError: there is no room to begin.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def commit(self, state: AgentState) -> None:
        """Replace what stands in it; when this returns it is on the disk.

        Raises:
            StorageFullError: there is no room; what stood there stands.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, msgspec.json.encode(state))

    def _open(self) -> Opened:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return Opened(state=self._read())
        except (sqlite3.DatabaseError, *MALFORMED) as exc:
            if _is_full(exc):
                raise StorageFullError(f"{self._path}: {exc}", retry_after_s=_RETRY_AFTER_S) from exc
            if isinstance(exc, sqlite3.Error) and _code(exc) not in _DAMAGED:
                # Locked, forbidden, out of memory: nothing is wrong with what stands in it.
                raise
            self._close()
            problem, aside = str(exc), self._move_aside()
        self._read()
        return Opened(state=None, problem=f"{REBUILT}: {problem}; the damaged one is {aside.name}")

    def _read(self) -> AgentState | None:
        """Connect and read. Raises sqlite3.DatabaseError or one of MALFORMED when anything in it is not whole."""
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._database = database
        database.execute("PRAGMA journal_mode=WAL")
        # NORMAL would lose the last commits in a power cut, and what was done on their word would be forgotten.
        database.execute("PRAGMA synchronous=FULL")
        # The file is small: a look at all of it costs milliseconds, and rot is better found now than in a decision.
        (sound,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
        database.execute("CREATE TABLE IF NOT EXISTS agent_state (id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB)")
        row = database.execute("SELECT state FROM agent_state").fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=AgentState)

    def _move_aside(self) -> Path:
        """Keep the damaged files for a person to look at; an earlier damage makes way."""
        for suffix in _SUFFIXES:
            found = self._path.with_name(self._path.name + suffix)
            if found.exists():
                found.replace(self._path.with_name(f"{self._path.name}.damaged{suffix}"))
        return self._path.with_name(f"{self._path.name}.damaged")

    def _commit(self, encoded: bytes) -> None:
        if self._database is None:
            raise RuntimeError("the journal is not open")
        try:
            self._database.execute("INSERT OR REPLACE INTO agent_state (id, state) VALUES (1, ?)", (encoded,))
        except sqlite3.DatabaseError as exc:
            if _is_full(exc):
                raise StorageFullError(f"{self._path}: {exc}", retry_after_s=_RETRY_AFTER_S) from exc
            raise

    def _close(self) -> None:
        if self._database is not None:
            with closing(self._database):
                self._database = None


def _code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code; the extended ones add a detail in the upper bytes."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_full(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _code(error) in _FULL
