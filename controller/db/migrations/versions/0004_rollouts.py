"""Create the tables of rollouts, their assignments and decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ROLLOUT_ASSIGNMENT_STATUS = sa.Enum(
    "queued",
    "in_progress",
    "succeeded",
    "failed",
    "rolled_back",
    "rejected",
    "timed_out",
    "canceled",
    "removed",
    "superseded",
    native_enum=False,
    create_constraint=True,
    length=32,
)
_ROLLOUT_ASSIGNMENT_PHASE = sa.Enum(
    "downloading", "trial", "staged", "shadow", "probation", native_enum=False, create_constraint=True, length=32
)
_ROLLOUT_DECISION_STATUS = sa.Enum(
    "running",
    "paused",
    "completed",
    "aborting",
    "aborted",
    "rolling_back",
    "rolled_back",
    native_enum=False,
    create_constraint=True,
    length=32,
)
_ROLLOUT_DECISION_VERDICT = sa.Enum(
    "pass", "fail", "inconclusive", "continue", native_enum=False, create_constraint=True, length=32
)


def upgrade() -> None:
    _create_rollout_assignment()
    _create_rollout_decision()
    _create_rollout_rollout()


def downgrade() -> None:
    op.drop_table("rollout_rollout")
    op.drop_table("rollout_decision")
    op.drop_table("rollout_assignment")


def _create_rollout_assignment() -> None:
    op.create_table(
        "rollout_assignment",
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release_id", sa.String(length=36), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status", _ROLLOUT_ASSIGNMENT_STATUS, nullable=False),
        sa.Column("phase", _ROLLOUT_ASSIGNMENT_PHASE, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("activated", sa.Boolean(), nullable=False),
        sa.Column("unreachable", sa.Boolean(), nullable=False),
        sa.Column("going_back", sa.Boolean(), nullable=False),
        sa.Column("previous_release_id", sa.String(length=36), nullable=True),
        sa.Column("pairs", sa.BigInteger(), nullable=False),
        sa.Column("flips", sa.BigInteger(), nullable=False),
        sa.Column("slower", sa.BigInteger(), nullable=False),
        sa.Column("candidate_errors", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", name=op.f("pk_rollout_assignment")),
    )
    _index_rollout_assignment()


def _index_rollout_assignment() -> None:
    with op.batch_alter_table("rollout_assignment", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollout_assignment_device_id"), ["device_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_assignment_due_at"), ["due_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_assignment_going_back"), ["going_back"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_assignment_release_id"), ["release_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_assignment_status"), ["status"], unique=False)
        batch_op.create_index(
            "ix_rollout_assignment_waiting", ["rollout_id", "wave", "opened_at", "bucket"], unique=False
        )
        batch_op.create_index(
            "ux_rollout_assignment_open",
            ["model", "device_id"],
            unique=True,
            sqlite_where=sa.text("status IN ('queued', 'in_progress')"),
            postgresql_where=sa.text("status IN ('queued', 'in_progress')"),
        )


def _create_rollout_decision() -> None:
    op.create_table(
        "rollout_decision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("status", _ROLLOUT_DECISION_STATUS, nullable=False),
        sa.Column("wave", sa.Integer(), nullable=True),
        sa.Column("verdict", _ROLLOUT_DECISION_VERDICT, nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("numbers", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_decision")),
    )
    _index_rollout_decision()


def _index_rollout_decision() -> None:
    with op.batch_alter_table("rollout_decision", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollout_decision_rollout_id"), ["rollout_id"], unique=False)


def _create_rollout_rollout() -> None:
    op.create_table(
        "rollout_rollout",
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("release_id", sa.String(length=36), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("status", _ROLLOUT_DECISION_STATUS, nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", name=op.f("pk_rollout_rollout")),
    )
    _index_rollout_rollout()


def _index_rollout_rollout() -> None:
    with op.batch_alter_table("rollout_rollout", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollout_rollout_model"), ["model"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_rollout_release_id"), ["release_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_rollout_status"), ["status"], unique=False)
