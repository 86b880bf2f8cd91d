"""An empty database with every table of the controller."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import controller.db.tables  # noqa: F401 - importing it fills the metadata
from controller.db.engine import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.clock import Clock


def sqlite_url(folder: Path) -> str:
    """Return the URL of a SQLite file in `folder`."""
    return f"sqlite+aiosqlite:///{folder / 'litefleet.db'}"


@contextlib.asynccontextmanager
async def opened_database(url: str, *, clock: Clock | None = None) -> AsyncIterator[Database]:
    """Create the tables, lend the database, and close it."""
    database = Database(url, clock=clock)
    try:
        await database.create_all()
        yield database
    finally:
        await database.close()
