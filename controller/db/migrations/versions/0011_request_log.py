"""Create the table of requests that devices wrote down and sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "telemetry_request",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("event_id", sa.String(length=80), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "event_id", name=op.f("pk_telemetry_request")),
    )
    op.create_index(op.f("ix_telemetry_request_received_at"), "telemetry_request", ["received_at"])


def downgrade() -> None:
    op.drop_table("telemetry_request")
