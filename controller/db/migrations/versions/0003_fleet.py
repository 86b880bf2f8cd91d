"""Create the tables of devices, and what they say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_fleet_device()
    _create_fleet_invite()
    _create_fleet_label()
    _create_fleet_last_seen()
    _create_fleet_reported()
    _create_fleet_sequence()


def downgrade() -> None:
    op.drop_table("fleet_sequence")
    op.drop_table("fleet_reported")
    op.drop_table("fleet_last_seen")
    op.drop_table("fleet_label")
    op.drop_table("fleet_invite")
    op.drop_table("fleet_device")


def _create_fleet_device() -> None:
    op.create_table(
        "fleet_device",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("certificate_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("architecture", sa.String(length=64), nullable=True),
        sa.Column("hardware", sa.Text(), nullable=True),
        sa.Column("boot_serial", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_fleet_device")),
    )
    _index_fleet_device()


def _index_fleet_device() -> None:
    with op.batch_alter_table("fleet_device", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fleet_device_architecture"), ["architecture"], unique=False)
        batch_op.create_index(batch_op.f("ix_fleet_device_site"), ["site"], unique=False)


def _create_fleet_invite() -> None:
    op.create_table(
        "fleet_invite",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_fleet_invite")),
    )
    _index_fleet_invite()


def _index_fleet_invite() -> None:
    with op.batch_alter_table("fleet_invite", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fleet_invite_device_id"), ["device_id"], unique=False)


def _create_fleet_label() -> None:
    op.create_table(
        "fleet_label",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "key", name=op.f("pk_fleet_label")),
    )
    _index_fleet_label()


def _index_fleet_label() -> None:
    with op.batch_alter_table("fleet_label", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fleet_label_key"), ["key"], unique=False)


def _create_fleet_last_seen() -> None:
    op.create_table(
        "fleet_last_seen",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("pulse_serial", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_fleet_last_seen")),
    )


def _create_fleet_reported() -> None:
    op.create_table(
        "fleet_reported",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_fleet_reported")),
    )


def _create_fleet_sequence() -> None:
    op.create_table(
        "fleet_sequence",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("boot_id", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "channel", name=op.f("pk_fleet_sequence")),
    )
