"""Create the tables of measurements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_telemetry_sum()
    _create_telemetry_window()


def downgrade() -> None:
    op.drop_table("telemetry_window")
    op.drop_table("telemetry_sum")


def _create_telemetry_sum() -> None:
    op.create_table(
        "telemetry_sum",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release_id", sa.String(length=63), nullable=False),
        sa.Column("windows", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("sketches", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", "release_id", name=op.f("pk_telemetry_sum")),
    )
    _index_telemetry_sum()


def _index_telemetry_sum() -> None:
    with op.batch_alter_table("telemetry_sum", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_telemetry_sum_release_id"), ["release_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_telemetry_sum_updated_at"), ["updated_at"], unique=False)


def _create_telemetry_window() -> None:
    op.create_table(
        "telemetry_window",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("boot_id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release_id", sa.String(length=63), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_s", sa.Float(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("sketches", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "device_id", "boot_id", "model", "release_id", "window_start", name=op.f("pk_telemetry_window")
        ),
    )
    _index_telemetry_window()


def _index_telemetry_window() -> None:
    with op.batch_alter_table("telemetry_window", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_telemetry_window_window_start"), ["window_start"], unique=False)
