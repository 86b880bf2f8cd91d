"""The throw-away PostgreSQL is a real one."""

from __future__ import annotations

import asyncpg
import pytest

from tests.support.postgres import Postgres

ANSWER_S = 10


async def connected(url: str, password: str | None = None) -> asyncpg.Connection:
    """Connect to a database by SQLAlchemy's form of its URL."""
    plain = url.replace("postgresql+asyncpg://", "postgresql://")
    if password is None:
        return await asyncpg.connect(plain, timeout=ANSWER_S)
    return await asyncpg.connect(plain, timeout=ANSWER_S, password=password)


async def test_postgres_url_given_is_an_empty_database(postgres_url: str) -> None:
    connection = await connected(postgres_url)
    try:
        tables = await connection.fetch("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")
        await connection.execute("CREATE TABLE mine (n int)")
    finally:
        await connection.close()
    assert tables == []


async def test_database_created_twice_shares_nothing(postgres: Postgres) -> None:
    first = await connected(postgres.create_database())
    second = await connected(postgres.create_database())
    try:
        await first.execute("CREATE TABLE mine (n int)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await second.fetch("SELECT * FROM mine")
    finally:
        await first.close()
        await second.close()


async def test_postgres_wrong_password_is_refused(postgres_url: str) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connected(postgres_url, password="wrong")


async def test_postgres_stopped_and_started_keeps_port_and_data() -> None:
    with Postgres() as server:
        url, port = server.create_database(), server.port
        connection = await connected(url)
        await connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        await connection.close()
        server.stop()
        with pytest.raises(OSError, match="Connect call failed"):
            await connected(url)
        server.start()
        connection = await connected(url)
        kept = await connection.fetchval("SELECT n FROM kept")
        await connection.close()
    assert (server.port, kept) == (port, 7)
