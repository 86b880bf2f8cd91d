"""Rows ↔ core types; bulk statements, never ORM instances on the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import sqlalchemy as sa
from sqlmodel import col

from controller.rollouts.core.types import ENDED, RolloutState, RolloutStatus
from controller.rollouts.spec import Assignment, RolloutSpec
from controller.rollouts.tables import AssignmentRow, DecisionRow, RolloutRow
from shared.errors import NotFoundError
from shared.ids import DeviceId, ModelName, ReleaseId, RolloutId
from shared.wire import AssignmentStatus, PairedCounts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from controller.db.unit_of_work import UnitOfWork

OPEN_STATUSES = (AssignmentStatus.QUEUED, AssignmentStatus.IN_PROGRESS)
REVERTED = (RolloutStatus.ROLLING_BACK, RolloutStatus.ROLLED_BACK)
_rollouts = cast("sa.Table", RolloutRow.__table__)  # type: ignore[attr-defined] # SQLModel adds it at run time
_assignments = cast("sa.Table", AssignmentRow.__table__)  # type: ignore[attr-defined] # as above
_STORED = sa.select(_rollouts.c.spec, _rollouts.c.state, _rollouts.c.fetched_bytes, _rollouts.c.full_bytes)
_FIXED = frozenset({"rollout_id", "device_id"})
# SQLite takes 32,766 values in one statement; a page of ids stays far below it.
_IDS_AT_ONCE = 5000


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as it is kept."""

    spec: RolloutSpec
    state: RolloutState
    fetched_bytes: int = 0
    """Of what devices have told: the files that were fetched for its artifacts."""
    full_bytes: int = 0
    """What the same artifacts are long."""


async def insert_rollout(uow: UnitOfWork, stored: Stored) -> None:
    """Store a new rollout."""
    spec, state = stored.spec, stored.state
    uow.session.add(
        RolloutRow(
            rollout_id=spec.rollout_id,
            release_id=spec.request.release_id,
            model=spec.model,
            status=state.status,
            spec=spec,
            state=state,
            created_at=spec.created_at,
        )
    )
    await uow.session.flush()


async def load_rollout(uow: UnitOfWork, rollout_id: RolloutId) -> Stored:
    """Read a rollout. Raises NotFoundError."""
    query = _STORED.where(_rollouts.c.rollout_id == rollout_id)
    row = (await uow.session.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError(kind="rollout", name=rollout_id)
    return _stored(row)


async def add_transfers(uow: UnitOfWork, added: Mapping[RolloutId, tuple[int, int]]) -> None:
    """Add bytes fetched, and bytes that the same artifacts are long, to the sums of rollouts."""
    for rollout_id, (fetched_bytes, full_bytes) in added.items():
        change = sa.update(_rollouts).where(_rollouts.c.rollout_id == rollout_id)
        await uow.session.execute(
            change.values(
                fetched_bytes=_rollouts.c.fetched_bytes + fetched_bytes, full_bytes=_rollouts.c.full_bytes + full_bytes
            )
        )


async def save_state(uow: UnitOfWork, state: RolloutState) -> None:
    """Store what a rollout has become."""
    change = sa.update(_rollouts).where(_rollouts.c.rollout_id == state.rollout_id)
    await uow.session.execute(change.values(state=state, status=state.status))


async def rollouts_page(uow: UnitOfWork, after: str | None, limit: int) -> list[Stored]:
    """Read rollouts, newest first; their ids sort by age."""
    query = _STORED.order_by(_rollouts.c.rollout_id.desc()).limit(limit)
    if after is not None:
        query = query.where(_rollouts.c.rollout_id < after)
    return [_stored(row) for row in await uow.session.execute(query)]


async def unfinished(uow: UnitOfWork, model: ModelName | None = None) -> list[Stored]:
    """Read the rollouts that have not ended, of one model or of all."""
    query = _STORED.where(_rollouts.c.status.not_in(list(ENDED)))
    if model is not None:
        query = query.where(_rollouts.c.model == model)
    rows = await uow.session.execute(query.order_by(_rollouts.c.rollout_id))
    return [_stored(row) for row in rows]


async def reverted_by(uow: UnitOfWork, release_id: ReleaseId) -> RolloutId | None:
    """Return a rollout that took this release back from its devices."""
    query = sa.select(_rollouts.c.rollout_id).where(
        _rollouts.c.release_id == release_id, _rollouts.c.status.in_(REVERTED)
    )
    found = (await uow.session.execute(query.limit(1))).scalar_one_or_none()
    return None if found is None else RolloutId(found)


async def insert_assignments(uow: UnitOfWork, assignments: Sequence[Assignment]) -> None:
    """Store new assignments."""
    if assignments:
        await uow.session.execute(sa.insert(_assignments), [_values(one) for one in assignments])


async def update_assignments(uow: UnitOfWork, assignments: Sequence[Assignment]) -> None:
    """Store changed assignments, in one statement for all."""
    if not assignments:
        return
    # Core-level executemany on the connection: the session would take it for an ORM bulk update by primary key.
    connection = await uow.session.connection()
    statement = sa.update(_assignments).where(
        _assignments.c.rollout_id == sa.bindparam("key_rollout"), _assignments.c.device_id == sa.bindparam("key_device")
    )
    rows = []
    for one in assignments:
        values = {name: value for name, value in _values(one).items() if name not in _FIXED}
        rows.append({**values, "key_rollout": one.rollout_id, "key_device": one.device_id})
    await connection.execute(statement, rows)


async def assignments_page(
    uow: UnitOfWork, rollout_id: RolloutId, after: str | None, limit: int, *, status: AssignmentStatus | None = None
) -> list[Assignment]:
    """Read a rollout's assignments by device id."""
    query = sa.select(_assignments).where(_assignments.c.rollout_id == rollout_id)
    if after is not None:
        query = query.where(_assignments.c.device_id > after)
    if status is not None:
        query = query.where(_assignments.c.status == status)
    return await _read(uow, query.order_by(_assignments.c.device_id).limit(limit))


async def waiting_assignments(
    uow: UnitOfWork, rollout_id: RolloutId, *, wave: int, lo: int, hi: int, limit: int
) -> list[Assignment]:
    """Read the next assignments of a wave whose devices have not been told, by bucket."""
    query = sa.select(_assignments).where(
        _assignments.c.rollout_id == rollout_id,
        _assignments.c.wave == wave,
        _assignments.c.opened_at.is_(None),
        _assignments.c.status == AssignmentStatus.QUEUED,
        _assignments.c.bucket >= lo,
        # `hi` itself may be 2**63, which no database integer holds.
        _assignments.c.bucket <= hi - 1,
    )
    return await _read(uow, query.order_by(_assignments.c.bucket, _assignments.c.device_id).limit(limit))


async def assigned_devices(uow: UnitOfWork, rollout_id: RolloutId, ids: Sequence[DeviceId]) -> set[DeviceId]:
    """Return which of these devices a rollout has assigned already."""
    found: set[DeviceId] = set()
    for start in range(0, len(ids), _IDS_AT_ONCE):
        query = sa.select(_assignments.c.device_id).where(
            _assignments.c.rollout_id == rollout_id, _assignments.c.device_id.in_(ids[start : start + _IDS_AT_ONCE])
        )
        found.update(DeviceId(one) for one in (await uow.session.execute(query)).scalars())
    return found


async def open_assignments(
    uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName | None = None
) -> list[Assignment]:
    """Read what these devices still have to do or to confirm, of one model or of all."""
    query = sa.select(_assignments).where(
        _assignments.c.device_id.in_(ids),
        sa.or_(_assignments.c.status.in_(OPEN_STATUSES), _assignments.c.going_back),
    )
    if model is not None:
        query = query.where(_assignments.c.model == model)
    return await _read(uow, query.order_by(_assignments.c.rollout_id))


async def due_assignments(
    uow: UnitOfWork, at: datetime, limit: int, *, without: Collection[RolloutId] = ()
) -> list[Assignment]:
    """Read assignments whose timer has run out, but of some rollouts."""
    query = sa.select(_assignments).where(_assignments.c.due_at <= at, _assignments.c.rollout_id.not_in(list(without)))
    return await _read(uow, query.order_by(_assignments.c.due_at).limit(limit))


async def waited_for(uow: UnitOfWork, rollout_id: RolloutId, *, closing: bool, limit: int) -> tuple[str, ...]:
    """Return the ids of some devices that a rollout waits for."""
    query = sa.select(_assignments.c.device_id).where(_assignments.c.rollout_id == rollout_id)
    if closing:
        query = query.where(_assignments.c.going_back)
    else:
        seen = sa.and_(_assignments.c.opened_at.is_not(None), sa.not_(_assignments.c.unreachable))
        query = query.where(_assignments.c.status.in_(OPEN_STATUSES), seen)
    return tuple((await uow.session.execute(query.order_by(_assignments.c.device_id).limit(limit))).scalars())


async def release_origins(
    uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName, *, before: RolloutId
) -> dict[tuple[DeviceId, ReleaseId], RolloutId]:
    """Return which earlier rollout brought which release to these devices, the newest of each."""
    query = sa.select(_assignments.c.device_id, _assignments.c.release_id, _assignments.c.rollout_id).where(
        _assignments.c.device_id.in_(ids),
        _assignments.c.model == model,
        # Ids sort by age: what came after the halted rollout is no way back.
        _assignments.c.rollout_id < before,
        _assignments.c.opened_at.is_not(None),
    )
    rows = await uow.session.execute(query.order_by(_assignments.c.rollout_id))
    return {(DeviceId(row.device_id), ReleaseId(row.release_id)): RolloutId(row.rollout_id) for row in rows}


async def release_in_use(uow: UnitOfWork, release_id: ReleaseId) -> str:
    """Return why a release is needed by rollouts, or an empty text."""
    live = sa.select(_rollouts.c.rollout_id).where(
        _rollouts.c.release_id == release_id, _rollouts.c.status.not_in(list(ENDED))
    )
    found = (await uow.session.execute(live.limit(1))).scalar_one_or_none()
    if found is not None:
        return f"rollout {found} is bringing it to devices"
    # A running rollout may have to give it back to its devices.
    kept = (
        sa.select(_assignments.c.rollout_id)
        .join(_rollouts, _rollouts.c.rollout_id == _assignments.c.rollout_id)
        .where(_assignments.c.previous_release_id == release_id, _rollouts.c.status.not_in(list(ENDED)))
    )
    found = (await uow.session.execute(kept.limit(1))).scalar_one_or_none()
    return "" if found is None else f"rollout {found} may have to go back to it"


def add_decision(uow: UnitOfWork, row: DecisionRow) -> None:
    """Store a decision."""
    uow.session.add(row)


async def decisions_page(uow: UnitOfWork, rollout_id: RolloutId, after: int, limit: int) -> list[DecisionRow]:
    """Read a rollout's decisions, oldest first."""
    query = sa.select(DecisionRow).where(col(DecisionRow.rollout_id) == rollout_id, col(DecisionRow.id) > after)
    return list((await uow.session.execute(query.order_by(col(DecisionRow.id)).limit(limit))).scalars())


def _stored(row: sa.Row[*tuple[object, ...]]) -> Stored:
    return Stored(spec=row.spec, state=row.state, fetched_bytes=row.fetched_bytes, full_bytes=row.full_bytes)


async def _read(uow: UnitOfWork, query: sa.Select[tuple[object, ...]]) -> list[Assignment]:
    return [_assignment(row) for row in (await uow.session.execute(query)).mappings()]


def _assignment(row: sa.RowMapping) -> Assignment:
    values = {name: value for name, value in row.items() if name not in PairedCounts.__struct_fields__}
    paired = PairedCounts(**{name: row[name] for name in PairedCounts.__struct_fields__})
    return Assignment(**{str(name): value for name, value in values.items()}, paired=paired)


def _values(one: Assignment) -> dict[str, object]:
    values: dict[str, object] = {
        name: getattr(one, name) for name in Assignment.__dataclass_fields__ if name != "paired"
    }
    values.update({name: getattr(one.paired, name) for name in PairedCounts.__struct_fields__})
    return values
