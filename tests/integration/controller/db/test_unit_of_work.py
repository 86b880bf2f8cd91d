"""A unit of work on both engines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
import sqlalchemy as sa
from sqlmodel import col

from controller.db.audit import AuditBatchRow, AuditEntryRow, verify
from shared.errors import UnreachableError

if TYPE_CHECKING:
    from controller.db.engine import Database


class Note(msgspec.Struct, frozen=True, kw_only=True):
    text: str


async def test_unit_of_work_committed_leaves_outbox_and_audit_together(database: Database) -> None:
    database.outbox_event.clear()
    called: list[str] = []
    async with database.unit_of_work(actor="ada") as uow:
        uow.emit("note", Note(text="hello"))
        uow.audit("note.write", "note/1", {"length": 5})
        uow.after_commit(lambda: called.append("done"))
        assert called == []
    assert called == ["done"]
    assert database.outbox_event.is_set()
    [item] = await database.pending("note", limit=10)
    assert msgspec.json.decode(item.payload, type=Note) == Note(text="hello")
    async with database.unit_of_work(read_only=True) as uow:
        [entry] = (await uow.session.execute(sa.select(AuditEntryRow))).scalars().all()
    assert (entry.actor, entry.action, entry.detail) == ("ada", "note.write", {"length": 5})


async def test_unit_of_work_failed_leaves_nothing(database: Database) -> None:
    called: list[str] = []

    async def fail() -> None:
        async with database.unit_of_work() as uow:
            uow.emit("note", Note(text="lost"))
            uow.audit("note.write", "note/1", {})
            uow.after_commit(lambda: called.append("done"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert called == []
    assert await database.pending("note", limit=10) == []


async def test_outbox_item_done_is_not_pending_again(database: Database) -> None:
    async with database.unit_of_work() as uow:
        for text in ("first", "second"):
            uow.emit("note", Note(text=text))
    first, second = await database.pending("note", limit=10)
    async with database.unit_of_work() as uow:
        await database.mark_done(uow, [first.item_id])
    assert await database.pending("note", limit=10) == [second]


async def test_writers_at_once_run_one_after_another(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.unit_of_work() as uow:
            uow.audit("count", f"writer/{number}", {})

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(write(number))
    async with database.unit_of_work(read_only=True) as uow:
        finding = await verify(uow.session)
    assert (finding.batches, finding.broken_at) == (20, None)


async def test_reader_beside_open_writer_sees_what_was_committed(database: Database) -> None:
    async with database.unit_of_work() as writer:
        writer.emit("note", Note(text="not yet"))
        await writer.session.flush()
        assert await database.pending("note", limit=10) == []
    assert len(await database.pending("note", limit=10)) == 1


@pytest.mark.parametrize("column", ["actor", "subject"])
async def test_audit_entry_altered_breaks_the_chain_there(database: Database, column: str) -> None:
    for number in range(5):
        async with database.unit_of_work() as uow:
            uow.audit("count", f"n/{number}", {"n": number})
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            sa.update(AuditEntryRow).where(col(AuditEntryRow.batch) == 3).values({column: "mallory"})
        )
    async with database.unit_of_work(read_only=True) as uow:
        assert (await verify(uow.session)).broken_at == 3


async def test_audit_batch_removed_breaks_the_chain_there(database: Database) -> None:
    for number in range(5):
        async with database.unit_of_work() as uow:
            uow.audit("count", f"n/{number}", {})
    async with database.unit_of_work() as uow:
        await uow.session.execute(sa.delete(AuditEntryRow).where(col(AuditEntryRow.batch) == 2))
        await uow.session.execute(sa.delete(AuditBatchRow).where(col(AuditBatchRow.number) == 2))
    async with database.unit_of_work(read_only=True) as uow:
        assert (await verify(uow.session)).broken_at == 2


async def test_unit_of_work_cancelled_lets_the_next_writer_in(database: Database) -> None:
    entered = asyncio.Event()

    async def hang() -> None:
        async with database.unit_of_work() as uow:
            uow.emit("note", Note(text="lost"))
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(hang())
        await entered.wait()
        task.cancel()
    async with database.unit_of_work() as uow:
        uow.emit("note", Note(text="kept"))
    assert len(await database.pending("note", limit=10)) == 1


async def test_unit_of_work_error_of_ours_passes_through(database: Database) -> None:
    with pytest.raises(UnreachableError, match="broker"):
        async with database.unit_of_work():
            raise UnreachableError("broker away")
