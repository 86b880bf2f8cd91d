"""The database goes away, or its disk is full: callers are told to retry, and it goes on when it is back."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest
import sqlalchemy as sa

from shared.errors import RetryableError, UnreachableError
from tests.support.database import opened_database, sqlite_url
from tests.support.file_size import file_size_limit
from tests.support.ports import LOOPBACK, free_port
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from controller.db.engine import Database


class Note(msgspec.Struct, frozen=True, kw_only=True):
    text: str


class Hammer:
    """Reads and writes without end, and counts what came of it; anything but RetryableError ends the test."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.went_well = 0
        self.told_to_retry = 0

    async def run(self, *, read_only: bool) -> None:
        while True:
            try:
                async with self._database.unit_of_work(read_only=read_only) as uow:
                    await uow.session.execute(sa.text("SELECT count(*) FROM outbox"))
                    await uow.session.execute(sa.text("SELECT count(*) FROM audit_batch"))
                self.went_well += 1
            except RetryableError:
                self.told_to_retry += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_postgres_lost_under_load_is_retryable_until_it_is_back(how: signal.Signals) -> None:
    with Postgres() as server:
        async with opened_database(server.create_database()) as database, asyncio.TaskGroup() as group:
            hammer = Hammer(database)
            tasks = [group.create_task(hammer.run(read_only=number % 2 == 0)) for number in range(6)]
            await wait_until_async(lambda: hammer.went_well > 50)
            assert server._process is not None
            server._process.send_signal(how)
            await asyncio.to_thread(server.stop)
            await wait_until_async(lambda: hammer.told_to_retry > 20)
            await asyncio.to_thread(server.start)
            before = hammer.went_well
            await wait_until_async(lambda: hammer.went_well > before + 50, within_s=20)
            for task in tasks:
                task.cancel()


async def test_postgres_never_there_is_unreachable() -> None:
    with pytest.raises(UnreachableError):
        async with opened_database(f"postgresql+asyncpg://litefleet:x@{LOOPBACK}:{free_port()}/litefleet"):
            pass


async def test_sqlite_disk_full_is_retryable_and_leaves_what_stood(tmp_path: Path) -> None:
    async with opened_database(sqlite_url(tmp_path)) as database:
        async with database.unit_of_work() as uow:
            uow.emit("note", Note(text="before"))

        async def write_much() -> None:
            async with database.unit_of_work() as uow:
                uow.emit("note", Note(text="x" * 4_000_000))

        with file_size_limit(1_000_000), pytest.raises(RetryableError):
            await write_much()
        assert len(await database.pending("note", limit=10)) == 1
        await write_much()
        assert len(await database.pending("note", limit=10)) == 2
