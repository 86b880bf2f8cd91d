"""Many rows in few statements, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlmodel import SQLModel

# asyncpg takes 32,767 parameters a statement and SQLite 32,766; no table of ours has 60 columns.
_ROWS_A_STATEMENT = 500


async def upsert(session: AsyncSession, table: type[SQLModel], rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows, or overwrite the columns that they name in the rows with the same primary key.

    All rows name the same columns, and no two the same primary key.
    """
    dialect = session.get_bind().dialect.name
    inspected = sa.inspect(table).local_table
    keys = [column.name for column in inspected.primary_key]
    for page in _pages(rows):
        statement = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(inspected).values(page)
        changed = {name: statement.excluded[name] for name in page[0] if name not in keys}
        if changed:
            await session.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))
        else:
            await session.execute(statement.on_conflict_do_nothing(index_elements=keys))


def _pages(rows: Sequence[Mapping[str, object]]) -> Iterator[list[dict[str, object]]]:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        yield [dict(row) for row in rows[start : start + _ROWS_A_STATEMENT]]
