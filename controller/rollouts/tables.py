"""Rows of rollouts, assignments and decisions. Nothing outside `store` sees one."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from controller.db.types import Json, UtcDateTime, one_of
from controller.rollouts.core.types import RolloutState, RolloutStatus
from controller.rollouts.spec import AssignedFacts, RolloutSpec
from shared.evidence import Verdict
from shared.wire import AssignmentPhase, AssignmentStatus

_OPEN = sa.text("status IN ('queued', 'in_progress')")


class RolloutRow(SQLModel, table=True):
    """One rollout; the columns beside `state` are copies to search by."""

    __tablename__ = "rollout_rollout"

    rollout_id: str = Field(primary_key=True, max_length=36)
    release_id: str = Field(max_length=36, index=True)
    model: str = Field(max_length=63, index=True)
    status: RolloutStatus = Field(sa_type=one_of(RolloutStatus), index=True)
    spec: RolloutSpec = Field(sa_type=Json(RolloutSpec))
    state: RolloutState = Field(sa_type=Json(RolloutState))
    fetched_bytes: int = Field(default=0, sa_type=sa.BigInteger)
    """Over all assignments, as those of `full_bytes`: running sums, so that showing a rollout reads one row."""
    full_bytes: int = Field(default=0, sa_type=sa.BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)


class AssignmentRow(SQLModel, table=True):
    """One device's share of a rollout."""

    __tablename__ = "rollout_assignment"
    __table_args__ = (
        # Two rollouts of one model may never have the same device open, whatever the planner believes.
        sa.Index(
            "ux_rollout_assignment_open", "model", "device_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN
        ),
        sa.Index("ix_rollout_assignment_waiting", "rollout_id", "wave", "opened_at", "bucket"),
    )

    rollout_id: str = Field(primary_key=True, max_length=36)
    device_id: str = Field(primary_key=True, max_length=63, index=True)
    model: str = Field(max_length=63)
    release_id: str = Field(max_length=36, index=True)
    wave: int
    bucket: int = Field(sa_type=sa.BigInteger)
    attempt: int
    status: AssignmentStatus = Field(sa_type=one_of(AssignmentStatus), index=True)
    phase: AssignmentPhase | None = Field(default=None, sa_type=one_of(AssignmentPhase))
    reason: str = Field(default="", sa_type=sa.Text)
    activated: bool = False
    unreachable: bool = False
    going_back: bool = Field(default=False, index=True)
    previous_release_id: str | None = Field(default=None, max_length=36)
    pairs: int = Field(default=0, sa_type=sa.BigInteger)
    flips: int = Field(default=0, sa_type=sa.BigInteger)
    slower: int = Field(default=0, sa_type=sa.BigInteger)
    candidate_errors: int = Field(default=0, sa_type=sa.BigInteger)
    fetched_bytes: int = Field(default=0, sa_type=sa.BigInteger)
    full_bytes: int = Field(default=0, sa_type=sa.BigInteger)
    facts: AssignedFacts = Field(sa_type=Json(AssignedFacts))
    opened_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    changed_at: datetime = Field(sa_type=UtcDateTime)
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)


class DecisionRow(SQLModel, table=True):
    """One decision that changed something, with its reason and the numbers it rests on."""

    __tablename__ = "rollout_decision"

    id: int | None = Field(default=None, primary_key=True)
    rollout_id: str = Field(max_length=36, index=True)
    at: datetime = Field(sa_type=UtcDateTime)
    actor: str = Field(max_length=128)
    event: str = Field(max_length=32)
    status: RolloutStatus = Field(sa_type=one_of(RolloutStatus))
    wave: int | None = None
    verdict: Verdict | None = Field(default=None, sa_type=one_of(Verdict))
    reason: str = Field(max_length=64)
    sentence: str = Field(sa_type=sa.Text)
    numbers: dict[str, int] = Field(sa_type=Json(dict[str, int]))
