"""Create the tables of what devices are asked to time, and of what they answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_STATE = sa.Enum("queued", "sent", "done", "failed", native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.create_table(
        "registry_measurement",
        sa.Column("conversion_id", sa.String(length=36), nullable=False),
        sa.Column("artifact_sha256", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("measurement_id", sa.String(length=36), nullable=False),
        sa.Column("length_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", _STATE, nullable=False),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("conversion_id", "artifact_sha256", "device_id", name=op.f("pk_registry_measurement")),
        sa.UniqueConstraint("measurement_id", name=op.f("uq_registry_measurement_measurement_id")),
    )
    op.create_index(op.f("ix_registry_measurement_state"), "registry_measurement", ["state"])
    op.create_table(
        "desired_measurement",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("measurement_id", sa.String(length=63), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "measurement_id", name=op.f("pk_desired_measurement")),
    )


def downgrade() -> None:
    op.drop_table("desired_measurement")
    op.drop_table("registry_measurement")
