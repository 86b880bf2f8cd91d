"""Keep what a release adds to its conversion: another pipeline, components, and what may be written down."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_LIVE = "ix_registry_release_live"


def upgrade() -> None:
    op.add_column("registry_release", sa.Column("options", sa.Text(), nullable=False, server_default="{}"))
    op.add_column(
        "registry_release", sa.Column("options_sha256", sa.String(length=64), nullable=False, server_default="")
    )
    op.add_column("registry_release", sa.Column("components", sa.Text(), nullable=False, server_default="[]"))
    _index_live("conversion_id", "options_sha256")


def downgrade() -> None:
    # Only one release of a conversion can stay; those with options are taken out of sight, as if deleted.
    op.execute("UPDATE registry_release SET deleted_at = created_at WHERE deleted_at IS NULL AND options_sha256 <> ''")
    _index_live("conversion_id")
    for name in ("components", "options_sha256", "options"):
        op.drop_column("registry_release", name)


def _index_live(*columns: str) -> None:
    op.drop_index(_LIVE, "registry_release")
    op.create_index(
        _LIVE,
        "registry_release",
        list(columns),
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
