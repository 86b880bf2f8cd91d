"""What is left for dispatch, as outbox rows: a cursor travels in the row, so a restart goes on where it was."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
from sqlmodel import col

from controller.db.outbox import OutboxRow
from controller.rollouts.core.types import (
    AssignmentChange,
    Command,
    FindMembers,
    OpenBucketRange,
    RestorePrevious,
    RolloutState,
)
from shared.ids import DeviceId, RolloutId
from shared.wire import HaltMode

if TYPE_CHECKING:
    from controller.db.unit_of_work import UnitOfWork

EVIDENCE = "rollout_evidence"
WORK = "rollout_work"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Assignments that moved because devices said so; they are stored, and not yet counted."""

    rollout_id: RolloutId
    at: datetime
    changes: tuple[AssignmentChange, ...]


class FindWork(msgspec.Struct, frozen=True, kw_only=True, tag="find"):
    """Look for members of a wave behind `after`; at most `limit` more."""

    rollout_id: RolloutId
    wave: int
    lo: int
    hi: int
    limit: int | None
    after: DeviceId | None = None


class OpenWork(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Tell `limit` more devices of a wave."""

    rollout_id: RolloutId
    wave: int
    lo: int
    hi: int
    limit: int


class SweepWork(msgspec.Struct, frozen=True, kw_only=True, tag="sweep"):
    """Put the Desired of all devices behind `after` right."""

    rollout_id: RolloutId
    mode: HaltMode
    after: DeviceId | None = None


Work = FindWork | OpenWork | SweepWork
_WORK: msgspec.json.Decoder[Work] = msgspec.json.Decoder(Work)


def work_of(state: RolloutState, command: Command) -> Work | None:
    """Return what dispatch has to do for a command; a Halt is done with the decision itself."""
    match command:
        case FindMembers(wave=wave, lo=lo, hi=hi, limit=limit):
            return FindWork(rollout_id=state.rollout_id, wave=wave, lo=lo, hi=hi, limit=limit)
        case OpenBucketRange(wave=wave, lo=lo, hi=hi, limit=amount):
            return OpenWork(rollout_id=state.rollout_id, wave=wave, lo=lo, hi=hi, limit=amount)
        case RestorePrevious(mode=mode):
            return SweepWork(rollout_id=state.rollout_id, mode=mode)
        case _:
            return None


def read_work(payload: bytes) -> Work:
    """Read what `work_of` left."""
    return _WORK.decode(payload)


async def take_evidence(uow: UnitOfWork) -> list[Evidence]:
    """Take all that reports left, oldest first.

    All of it, and inside the caller's transaction: a change counted before the evidence that led up to it would be
    taken from a counter that does not hold it yet.
    """
    query = sa.select(OutboxRow.id, OutboxRow.payload).where(col(OutboxRow.kind) == EVIDENCE)  # type: ignore[call-overload] # SQLModel types columns as their values
    rows = (await uow.session.execute(query.order_by(col(OutboxRow.id)))).all()
    if rows:
        await uow.session.execute(sa.delete(OutboxRow).where(col(OutboxRow.id).in_([row.id for row in rows])))
    return [msgspec.json.decode(row.payload, type=Evidence) for row in rows]
