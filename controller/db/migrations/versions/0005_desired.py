"""Create the tables of what devices should run, and the pulse."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_DESIRED_HALT_MODE = sa.Enum("stop", "revert", native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    _create_desired_document()
    _create_desired_halt()
    _create_desired_installation()
    _create_desired_wish()


def downgrade() -> None:
    op.drop_table("desired_wish")
    op.drop_table("desired_installation")
    op.drop_table("desired_halt")
    op.drop_table("desired_document")


def _create_desired_document() -> None:
    op.create_table(
        "desired_document",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_desired_document")),
    )
    _index_desired_document()


def _index_desired_document() -> None:
    with op.batch_alter_table("desired_document", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_desired_document_expires_at"), ["expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_desired_document_published"), ["published"], unique=False)


def _create_desired_halt() -> None:
    op.create_table(
        "desired_halt",
        sa.Column("rollout_id", sa.String(length=63), nullable=False),
        sa.Column("mode", _DESIRED_HALT_MODE, nullable=False),
        sa.Column("halted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", name=op.f("pk_desired_halt")),
    )
    _index_desired_halt()


def _index_desired_halt() -> None:
    with op.batch_alter_table("desired_halt", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_desired_halt_halted_at"), ["halted_at"], unique=False)


def _create_desired_installation() -> None:
    op.create_table(
        "desired_installation",
        sa.Column("row_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("sentinel", sa.String(length=64), nullable=False),
        sa.Column("pulse_serial", sa.Integer(), nullable=False),
        sa.Column("pulse_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("pulse_issued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pulse_published", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_desired_installation")),
    )


def _create_desired_wish() -> None:
    op.create_table(
        "desired_wish",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release_id", sa.String(length=63), nullable=False),
        sa.Column("rollout_id", sa.String(length=63), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("override_blacklist", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", name=op.f("pk_desired_wish")),
    )
    _index_desired_wish()


def _index_desired_wish() -> None:
    with op.batch_alter_table("desired_wish", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_desired_wish_release_id"), ["release_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_desired_wish_rollout_id"), ["rollout_id"], unique=False)
