"""Create the tables of variants, of how their requests are divided, and of what of them is written down."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "desired_variant",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("variant", sa.String(length=63), nullable=False),
        sa.Column("release_id", sa.String(length=63), nullable=False),
        sa.Column("rollout_id", sa.String(length=63), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("override_blacklist", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", "variant", name=op.f("pk_desired_variant")),
    )
    for name in ("release_id", "rollout_id"):
        op.create_index(op.f(f"ix_desired_variant_{name}"), "desired_variant", [name])
    op.create_table(
        "desired_traffic",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("log", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("device_id", "model", name=op.f("pk_desired_traffic")),
    )


def downgrade() -> None:
    op.drop_table("desired_traffic")
    op.drop_table("desired_variant")
