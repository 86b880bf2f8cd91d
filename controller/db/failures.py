"""What a driver's error means to a caller: the database is away, the disk is full, or the program is wrong."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.errors import RetryableError, StorageFullError, UnreachableError

_RETRY_AFTER_S = 2.0

# Primary result codes, https://www.sqlite.org/rescode.html: the file cannot be had now, though the program is right.
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_PRIMARY = 0xFF

# Classes of SQLSTATE (PostgreSQL, appendix A): connection, rollback, out of resources, intervention, system error.
_POSTGRES_AWAY = ("08", "40", "53", "57", "58")
# asyncpg's own word for a connection that broke in the middle of something and cannot be used any more.
_POSTGRES_BROKEN = frozenset({"InternalClientError"})
_POSTGRES_DISK_FULL = "53100"


def meaning(error: BaseException) -> RetryableError | None:
    """Return the retryable error that a driver's error stands for, or None when retrying would not help."""
    if isinstance(error, ConnectionError | PoolTimeoutError):
        return _away(error)
    if not isinstance(error, DBAPIError):
        return None
    for cause in _chain(error):
        found = _of_sqlite(cause) if isinstance(cause, sqlite3.Error) else _of_postgres(cause)
        if found is not None:
            return found
    return _away(error) if error.connection_invalidated else None


def away_while_connecting(error: BaseException) -> RetryableError | None:
    """Do as `meaning` does where nothing but the connection is tried, so that any OS error means "away"."""
    if isinstance(error, OSError):
        return _away(error)
    return meaning(error)


def _chain(error: DBAPIError) -> list[BaseException]:
    """Return the driver's own errors below SQLAlchemy's, outermost first."""
    found: list[BaseException] = []
    cause: BaseException | None = error.orig
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__
    return found


def _of_sqlite(cause: sqlite3.Error) -> RetryableError | None:
    code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY
    if code == sqlite3.SQLITE_FULL:
        return StorageFullError("the disk that holds the database is full")
    return _away(cause) if code in _SQLITE_AWAY else None


def _of_postgres(cause: BaseException) -> RetryableError | None:
    if isinstance(cause, OSError):
        return _away(cause)
    if type(cause).__name__ in _POSTGRES_BROKEN:
        return _away(cause)
    state = getattr(cause, "sqlstate", None)
    if not isinstance(state, str):
        return None
    if state == _POSTGRES_DISK_FULL:
        return StorageFullError("the disk of the database server is full")
    return _away(cause) if state.startswith(_POSTGRES_AWAY) else None


def _away(cause: BaseException) -> UnreachableError:
    # The driver's text may hold statement parameters or a password; its type says enough.
    return UnreachableError(f"the database does not answer ({type(cause).__name__})", retry_after_s=_RETRY_AFTER_S)
