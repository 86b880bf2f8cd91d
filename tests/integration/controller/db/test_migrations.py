"""The revisions make exactly the tables that the program has, and can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel

import controller.db.tables  # noqa: F401 - importing it fills the metadata
from controller.db.engine import Database
from controller.db.migrate import configuration, downgrade, revisions
from shared.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import Connection


@pytest.fixture
async def empty(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


def _drift(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, SQLModel.metadata))


def _tables(connection: Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names())


def _checks(connection: Connection) -> set[tuple[str, str | None]]:
    inspected = sa.inspect(connection)
    return {
        (table, check["name"]) for table in SQLModel.metadata.tables for check in inspected.get_check_constraints(table)
    }


async def test_migrated_database_has_exactly_the_tables_of_the_program(empty: Database) -> None:
    await empty.migrate()
    async with empty._connection() as connection:
        assert await connection.run_sync(_drift) == []
        found = await connection.run_sync(_checks)
    declared = [
        constraint
        for table in SQLModel.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint)
    ]
    assert len(found) == len(declared), "every enumerated column has its CHECK"


async def test_migrated_twice_changes_nothing(empty: Database) -> None:
    await empty.migrate()
    await empty.migrate()
    async with empty._connection() as connection:
        assert await connection.run_sync(_drift) == []


async def test_every_revision_can_be_undone(empty: Database) -> None:
    await empty.migrate()
    async with empty._connection() as connection:
        await connection.run_sync(downgrade)
        await connection.commit()
        assert await connection.run_sync(_tables) <= {"alembic_version"}
    await empty.migrate()


async def test_database_of_a_newer_program_is_refused(empty: Database) -> None:
    await empty.migrate()
    async with empty._connection() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.commit()
    with pytest.raises(ConflictError, match="9999"):
        await empty.migrate()


def test_revisions_are_one_line_in_the_order_of_their_numbers() -> None:
    scripts = ScriptDirectory.from_config(configuration()).walk_revisions()
    assert [script.revision for script in scripts] == revisions()
