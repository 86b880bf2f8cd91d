"""Records of requests as rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlmodel import col

from controller.db.bulk import upsert
from controller.telemetry.tables import RequestRow
from shared.ids import DeviceId, ModelName

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """One record as it was sent."""

    event_id: str
    model: ModelName
    received_at: datetime
    event: str
    """A CloudEvent in JSON."""


async def write(
    session: AsyncSession, device: DeviceId, records: Sequence[tuple[str, ModelName, str]], now: datetime
) -> None:
    """Store records; one that is there is overwritten with itself."""
    rows: dict[str, dict[str, object]] = {
        event_id: {
            "device_id": device,
            "event_id": event_id,
            "model": model,
            "received_at": now,
            "event": event,
        }
        for event_id, model, event in records
    }
    await upsert(session, RequestRow, list(rows.values()))


async def trim(session: AsyncSession, device: DeviceId, *, keep: int) -> None:
    """Delete the oldest of a device beyond so many."""
    last = (
        sa.select(col(RequestRow.event_id))
        .where(col(RequestRow.device_id) == device)
        .order_by(col(RequestRow.event_id).desc())
        .offset(keep)
        .limit(1)
    )
    newest_gone = (await session.execute(last)).scalar_one_or_none()
    if newest_gone is not None:
        await session.execute(
            sa.delete(RequestRow).where(col(RequestRow.device_id) == device, col(RequestRow.event_id) <= newest_gone)
        )


async def listed(
    session: AsyncSession, device: DeviceId, *, model: str | None, after: str | None, limit: int
) -> list[StoredRequest]:
    """Return records of a device, by id."""
    statement = sa.select(
        col(RequestRow.event_id), col(RequestRow.model), col(RequestRow.received_at), col(RequestRow.event)
    ).where(col(RequestRow.device_id) == device)
    if model is not None:
        statement = statement.where(col(RequestRow.model) == model)
    if after is not None:
        statement = statement.where(col(RequestRow.event_id) > after)
    rows = (await session.execute(statement.order_by(col(RequestRow.event_id)).limit(limit))).all()
    return [
        StoredRequest(event_id=event_id, model=ModelName(name), received_at=at, event=event)
        for event_id, name, at, event in rows
    ]


async def forget(session: AsyncSession, *, before: datetime) -> None:
    """Delete what came before this."""
    await session.execute(sa.delete(RequestRow).where(col(RequestRow.received_at) < before))
