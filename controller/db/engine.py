"""The database, SQLite or PostgreSQL by URL: one writer at a time on both, so that both behave alike."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlmodel import SQLModel, col

from controller.db.failures import away_while_connecting, meaning
from controller.db.migrate import upgrade
from controller.db.outbox import OutboxItem, OutboxRow
from controller.db.unit_of_work import UnitOfWork
from shared.clock import Clock, SystemClock
from shared.errors import InvalidInputError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection

log = structlog.get_logger(__name__)

SQLITE, POSTGRES = "sqlite", "postgresql"

_CONNECT_S = 5.0
# Longest wait for another writer; a unit of work takes milliseconds, so waiting longer means that something hangs.
_WRITER_WAIT_S = 30.0
_STATEMENT_S = 30.0
_READ_ONLY = "litefleet_read_only"
# Any constant does, if no other program takes it in the same database: "litefleet" in ASCII, cut to 63 bits.
_WRITER_LOCK = 0x6C69746566_6C65


class Database:
    """Hands out units of work: on SQLite by WAL and BEGIN IMMEDIATE, on PostgreSQL under one advisory lock."""

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        parsed = _checked(url)
        self.dialect = parsed.get_backend_name()
        self.outbox_event = asyncio.Event()
        """Set after a commit that emitted, and at first: a consumer clears it, then reads what is pending."""
        self.outbox_event.set()
        self._clock = clock or SystemClock()
        self._engine = _sqlite_engine(parsed) if self.dialect == SQLITE else _postgres_engine(parsed)
        # SQLite's own waiting polls and is unfair; a lock in this process makes writers wait in line.
        self._writer = asyncio.Lock()

    async def migrate(self) -> None:
        """Bring the schema to the newest revision.

        Raises:
            UnreachableError: the database is away.
            ConflictError: a newer litefleet has already changed this database.
        """
        async with self._connection() as connection:
            await connection.run_sync(upgrade)
            await connection.commit()

    async def create_all(self) -> None:
        """Create every table that is imported, without migrations: for tests."""
        async with self._connection() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
            await connection.commit()

    async def close(self) -> None:
        """Give back all connections."""
        await self._engine.dispose()

    @contextlib.asynccontextmanager
    async def unit_of_work(self, *, actor: str = "system", read_only: bool = False) -> AsyncIterator[UnitOfWork]:
        """Open a transaction; commit when the block ends well, else undo everything.

        Writers run one after another, so what was read in the block cannot have changed at its commit. Never open one
        inside another. `read_only` reads a snapshot beside a writer; what it adds is thrown away.

        Raises:
            UnreachableError: the database is away, or another writer hangs.
            StorageFullError: there is no room for the transaction.
        """
        async with contextlib.AsyncExitStack() as stack:
            if not read_only and self.dialect == SQLITE:
                await stack.enter_async_context(self._turn_to_write())
            session = await stack.enter_async_context(self._session())
            unit = UnitOfWork(session=session, clock=self._clock, actor=actor)
            with _translated(connecting=True):
                await self._begin(session, read_only=read_only)
            with _translated(connecting=False):
                yield unit
            if read_only:
                return
            with _translated(connecting=False):
                # In the same transaction: a deed without its record, or a record without its deed, cannot be.
                await unit.write_audit()
                await session.commit()
        # After the commit, and never before: a consumer that wakes earlier would find nothing and sleep again.
        if unit.emitted:
            self.outbox_event.set()
        unit.committed()

    async def pending(self, kind: str, limit: int) -> list[OutboxItem]:
        """Return the oldest intents of a kind that are not done."""
        query = sa.select(OutboxRow).where(col(OutboxRow.kind) == kind).order_by(col(OutboxRow.id)).limit(limit)
        async with self.unit_of_work(read_only=True) as unit:
            rows = (await unit.session.execute(query)).scalars().all()
        return [
            OutboxItem(item_id=row.id or 0, kind=row.kind, payload=row.payload, created_at=row.created_at)
            for row in rows
        ]

    async def mark_done(self, uow: UnitOfWork, ids: Sequence[int]) -> None:
        """Take intents off the outbox, in the transaction that did them."""
        await uow.session.execute(sa.delete(OutboxRow).where(col(OutboxRow.id).in_(ids)))

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        async with contextlib.AsyncExitStack() as closing:
            session = await closing.enter_async_context(AsyncSession(self._engine, expire_on_commit=False))
            try:
                yield session
            finally:
                try:
                    await closing.aclose()
                except (OSError, SQLAlchemyError) as exc:
                    # Nothing hangs on this: what was committed is durable, and the server undoes the rest by itself.
                    log.info("database_connection_dropped", cause=type(exc).__name__)
                    with contextlib.suppress(OSError, SQLAlchemyError):
                        await session.invalidate()

    async def _begin(self, session: AsyncSession, *, read_only: bool) -> None:
        async with asyncio.timeout(_WRITER_WAIT_S):
            await session.connection(execution_options={_READ_ONLY: read_only})
            if self.dialect == POSTGRES and not read_only:
                await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))

    @contextlib.asynccontextmanager
    async def _turn_to_write(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_WRITER_WAIT_S):
                await self._writer.acquire()
        except TimeoutError as exc:
            raise UnreachableError("another unit of work holds the database") from exc
        try:
            yield
        finally:
            self._writer.release()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        async with contextlib.AsyncExitStack() as stack:
            with _translated(connecting=True):
                async with asyncio.timeout(_WRITER_WAIT_S):
                    connection = await stack.enter_async_context(self._engine.connect())
            with _translated(connecting=False):
                yield connection


@contextlib.contextmanager
def _translated(*, connecting: bool) -> Iterator[None]:
    try:
        yield
    except (OSError, SQLAlchemyError) as exc:
        known = away_while_connecting(exc) if connecting else meaning(exc)
        if known is None:
            raise
        raise known from exc


def _checked(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
        raise InvalidInputError(
            field="database_url",
            problem=f"driver {parsed.drivername} is not supported",
            remedy="sqlite+aiosqlite:///path or postgresql+asyncpg://user:password@host/name",
        )
    return parsed


def _sqlite_engine(url: URL) -> AsyncEngine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        url,
        pool_size=4,
        max_overflow=0,
        pool_timeout=_CONNECT_S,
        # An error is logged with its statement, and parameters may be anybody's.
        hide_parameters=True,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: DBAPIConnection, _record: object) -> None:
        # The driver would begin by itself, deferred and only before a write; transactions are begun below instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            # In WAL mode NORMAL cannot corrupt, but a power cut may undo what was acknowledged: FULL may not.
            "synchronous=FULL",
            "foreign_keys=ON",
            # Another process (a backup, a person) may hold the file for a moment.
            "busy_timeout=5000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgres_engine(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=8,
        max_overflow=0,
        pool_timeout=_CONNECT_S,
        # A server that restarted leaves dead connections in the pool; asking first costs one round trip.
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"timeout": _CONNECT_S, "command_timeout": _STATEMENT_S},
    )
