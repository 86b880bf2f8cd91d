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
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork

EVIDENCE = "rollout_evidence"
WORK = "rollout_work"
# A statement takes some 32,000 values; evidence piles up while a rollout cannot be counted.
_IDS_AT_ONCE = 5000


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


async def evidence_left(uow: UnitOfWork) -> dict[RolloutId, dict[int, Evidence]]:
    """Return all that reports left, by rollout and then by outbox row, oldest first.

    All of it, and inside the caller's transaction: a change counted before the evidence that led up to it would be
    taken from a counter that does not hold it yet.
    """
    query = sa.select(OutboxRow.id, OutboxRow.payload).where(col(OutboxRow.kind) == EVIDENCE)  # type: ignore[call-overload] # SQLModel types columns as their values
    rows = (await uow.session.execute(query.order_by(col(OutboxRow.id)))).all()
    found: dict[RolloutId, dict[int, Evidence]] = {}
    for row in rows:
        evidence = msgspec.json.decode(row.payload, type=Evidence)
        found.setdefault(evidence.rollout_id, {})[row.id] = evidence
    return found


async def drop_evidence(uow: UnitOfWork, ids: Sequence[int]) -> None:
    """Take counted evidence off the outbox."""
    for start in range(0, len(ids), _IDS_AT_ONCE):
        page = ids[start : start + _IDS_AT_ONCE]
        await uow.session.execute(sa.delete(OutboxRow).where(col(OutboxRow.id).in_(page)))
