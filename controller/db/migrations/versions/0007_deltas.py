"""Create the table of deltas, and keep what bringing artifacts to devices took."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_DELTA_PAIR_STATE = sa.Enum("made", "not_worth_it", "failed", native_enum=False, create_constraint=True, length=32)
_COUNTED = ("rollout_assignment", "rollout_rollout")


def upgrade() -> None:
    op.create_table(
        "delta_pair",
        sa.Column("new_sha256", sa.String(length=64), nullable=False),
        sa.Column("old_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", _DELTA_PAIR_STATE, nullable=False),
        sa.Column("length_bytes", sa.BigInteger(), nullable=False),
        sa.Column("full_bytes", sa.BigInteger(), nullable=False),
        sa.Column("delta_sha256", sa.String(length=64), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("new_sha256", "old_sha256", name=op.f("pk_delta_pair")),
    )
    for table in _COUNTED:
        for name in ("fetched_bytes", "full_bytes"):
            op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    for table in _COUNTED:
        for name in ("full_bytes", "fetched_bytes"):
            op.drop_column(table, name)
    op.drop_table("delta_pair")
