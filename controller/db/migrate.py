"""Alembic, driven by the program itself: no ini file, no command line, the connection of the caller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from shared.errors import ConflictError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

FOLDER = Path(__file__).parent / "migrations"


def configuration(connection: Connection | None = None) -> Config:
    """Return alembic's settings, bound to a connection that is already open."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def revisions() -> list[str]:
    """Return the ids of all revisions, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()]


def upgrade(connection: Connection) -> None:
    """Bring a database to the newest revision.

    Raises:
        ConflictError: the database has a revision that this program does not know.
    """
    try:
        command.upgrade(configuration(connection), "head")
    except CommandError as exc:
        raise ConflictError(
            kind="database", name=connection.engine.url.database or "", problem=f"cannot be migrated: {exc}"
        ) from exc


def downgrade(connection: Connection, revision: str = "base") -> None:
    """Undo migrations down to `revision`."""
    command.downgrade(configuration(connection), revision)
