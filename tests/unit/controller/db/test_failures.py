"""What a driver's error means: come back later, make room, or nothing that waiting would mend."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from controller.db.failures import away_while_connecting, meaning
from shared.errors import StorageFullError, UnreachableError

_SECRET = "INSERT INTO token VALUES ('hunter2')"


class _PostgresError(Exception):
    """As asyncpg's errors say what happened."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(_SECRET)
        self.sqlstate = sqlstate


class InternalClientError(Exception):
    """Named as asyncpg's own, which is what tells it."""


def _sqlite(code: int) -> DBAPIError:
    error = sqlite3.OperationalError(_SECRET)
    error.sqlite_errorcode = code
    return OperationalError(_SECRET, {}, error)


def _wrapped(cause: BaseException, *, below: BaseException | None = None, invalidated: bool = False) -> DBAPIError:
    if below is not None:
        cause.__cause__ = below
    return DBAPIError(_SECRET, {}, cause, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(_sqlite(sqlite3.SQLITE_BUSY), id="busy"),
        pytest.param(_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), id="busy, in its extended form"),
        pytest.param(_sqlite(sqlite3.SQLITE_LOCKED), id="locked"),
        pytest.param(_sqlite(sqlite3.SQLITE_IOERR_FSYNC), id="disk error"),
        pytest.param(_sqlite(sqlite3.SQLITE_CANTOPEN), id="file away"),
        pytest.param(_sqlite(sqlite3.SQLITE_READONLY), id="mounted read-only"),
        pytest.param(_wrapped(_PostgresError("08006")), id="connection failure"),
        pytest.param(_wrapped(_PostgresError("40001")), id="serialisation failure"),
        pytest.param(_wrapped(_PostgresError("53300")), id="too many connections"),
        pytest.param(_wrapped(_PostgresError("57P01")), id="admin shutdown"),
        pytest.param(_wrapped(_PostgresError("58030")), id="server I/O error"),
        pytest.param(_wrapped(OSError("reset")), id="socket"),
        pytest.param(_wrapped(InternalClientError("torn")), id="broken in the middle"),
        pytest.param(_wrapped(Exception("dialect"), below=_PostgresError("57P02")), id="below another error"),
        pytest.param(_wrapped(Exception("unknown"), invalidated=True), id="connection given up"),
        pytest.param(ConnectionRefusedError(), id="refused"),
        pytest.param(PoolTimeoutError("no connection free"), id="pool"),
    ],
)
def test_error_of_a_database_that_is_away_may_be_tried_again(error: BaseException) -> None:
    assert isinstance(meaning(error), UnreachableError)


@pytest.mark.parametrize("error", [_sqlite(sqlite3.SQLITE_FULL), _wrapped(_PostgresError("53100"))])
def test_error_of_a_full_disk_says_so(error: BaseException) -> None:
    assert isinstance(meaning(error), StorageFullError)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(_sqlite(sqlite3.SQLITE_CONSTRAINT), id="constraint"),
        pytest.param(_sqlite(sqlite3.SQLITE_ERROR), id="wrong SQL"),
        pytest.param(IntegrityError(_SECRET, {}, sqlite3.IntegrityError("twice")), id="no code at all"),
        pytest.param(_wrapped(_PostgresError("23505")), id="unique violation"),
        pytest.param(_wrapped(_PostgresError("42703")), id="undefined column"),
        pytest.param(_wrapped(_PostgresError(None)), id="no state at all"),
        pytest.param(ValueError("a bug"), id="not the database"),
        pytest.param(OSError("another file"), id="an OS error that is not a connection's"),
    ],
)
def test_error_of_the_program_is_not_tried_again(error: BaseException) -> None:
    assert meaning(error) is None


def test_error_while_connecting_may_be_any_of_the_system() -> None:
    assert isinstance(away_while_connecting(OSError("no route to host")), UnreachableError)


def test_error_while_connecting_that_is_a_mistake_stays_one() -> None:
    assert away_while_connecting(ValueError("bad URL")) is None


def test_meaning_of_an_error_that_causes_itself_is_found() -> None:
    first, second = Exception("first"), Exception("second")
    first.__cause__, second.__cause__ = second, first
    assert meaning(_wrapped(first)) is None


@pytest.mark.parametrize("error", [_sqlite(sqlite3.SQLITE_BUSY), _wrapped(_PostgresError("08006"))])
def test_meaning_does_not_repeat_what_the_statement_held(error: BaseException) -> None:
    assert "hunter2" not in str(meaning(error))
