"""Rows of measurements to values and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlmodel import col

from controller.db.bulk import upsert
from controller.registry.core.measurement import Measurement, MeasurementState
from controller.registry.tables import MeasurementRow
from shared.ids import ConversionId, DeviceId, MeasurementId, Sha256

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession


async def of_conversion(session: AsyncSession, conversion_id: str) -> list[Measurement]:
    """Return the measurements of a conversion's artifacts, oldest first."""
    return await _found(session, col(MeasurementRow.conversion_id) == conversion_id)


async def of_conversions(session: AsyncSession, conversion_ids: Collection[str]) -> list[Measurement]:
    """Return the measurements of several conversions, oldest first."""
    return await _found(session, col(MeasurementRow.conversion_id).in_(conversion_ids))


async def by_id(session: AsyncSession, ids: Collection[MeasurementId]) -> dict[MeasurementId, Measurement]:
    """Return measurements by id; those that were asked for anew since are absent."""
    found = await _found(session, col(MeasurementRow.measurement_id).in_(ids))
    return {one.measurement_id: one for one in found}


async def open_on(session: AsyncSession, devices: Collection[DeviceId]) -> list[Measurement]:
    """Return what is queued for, or was sent to, devices, oldest first."""
    waiting = col(MeasurementRow.state).in_([MeasurementState.QUEUED, MeasurementState.SENT])
    return await _found(session, sa.and_(waiting, col(MeasurementRow.device_id).in_(devices)))


async def in_state(session: AsyncSession, state: MeasurementState, *, limit: int) -> list[Measurement]:
    """Return measurements in a state, oldest first."""
    return await _found(session, col(MeasurementRow.state) == state, limit=limit)


async def save(session: AsyncSession, measurements: Sequence[Measurement]) -> None:
    """Write measurements whole, in place of what was known of them."""
    await upsert(session, MeasurementRow, [_values(one) for one in measurements])


async def _found(
    session: AsyncSession, which: sa.ColumnElement[bool], *, limit: int | None = None
) -> list[Measurement]:
    query = sa.select(MeasurementRow).where(which).order_by(col(MeasurementRow.measurement_id)).limit(limit)
    rows = (await session.execute(query, execution_options={"populate_existing": True})).scalars()
    return [_measurement(row) for row in rows]


def _measurement(row: MeasurementRow) -> Measurement:
    return Measurement(
        conversion_id=ConversionId(row.conversion_id),
        sha256=Sha256(row.artifact_sha256),
        device_id=DeviceId(row.device_id),
        measurement_id=MeasurementId(row.measurement_id),
        length_bytes=row.length_bytes,
        state=row.state,
        hardware=row.hardware,
        figures=row.figures,
        reason=row.reason,
        ordered_at=row.ordered_at,
        sent_at=row.sent_at,
        ended_at=row.ended_at,
    )


def _values(one: Measurement) -> dict[str, object]:
    return {
        "conversion_id": one.conversion_id,
        "artifact_sha256": one.sha256,
        "device_id": one.device_id,
        "measurement_id": one.measurement_id,
        "length_bytes": one.length_bytes,
        "state": one.state,
        "hardware": one.hardware,
        "figures": one.figures,
        "reason": one.reason,
        "ordered_at": one.ordered_at,
        "sent_at": one.sent_at,
        "ended_at": one.ended_at,
    }
