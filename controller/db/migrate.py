"""Alembic, driven by the program itself: no ini file, no command line, the connection of the caller.

Alembic is imported only where something is to be migrated: it would stay in memory, a tenth of the whole controller.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from shared.errors import ConflictError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection

FOLDER = Path(__file__).parent / "migrations"


def configuration(connection: Connection | None = None) -> Config:
    """Return alembic's settings, bound to a connection that is already open."""
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def revisions() -> list[str]:
    """Return the ids of all revisions, newest first: they are numbers, and files begin with them."""
    return sorted((path.name.split("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py")), reverse=True)


def upgrade(connection: Connection) -> None:
    """Bring a database to the newest revision.

    Raises:
        ConflictError: the database has a revision that this program does not know.
    """
    # The common case: nothing to do, and alembic is never loaded.
    if _revision(connection) == revisions()[0]:
        return
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.util import CommandError  # noqa: PLC0415 - see above

    try:
        command.upgrade(configuration(connection), "head")
    except CommandError as exc:
        raise ConflictError(
            kind="database", name=connection.engine.url.database or "", problem=f"cannot be migrated: {exc}"
        ) from exc


def downgrade(connection: Connection, revision: str = "base") -> None:
    """Undo migrations down to `revision`."""
    from alembic import command  # noqa: PLC0415 - see above

    command.downgrade(configuration(connection), revision)


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
