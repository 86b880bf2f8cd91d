"""Rows of deltas to values and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlmodel import col

from controller.db.bulk import upsert
from controller.deltas.core.pairs import DeltaRecord, Pair
from controller.deltas.tables import DeltaRow
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncSession


async def leading_to(session: AsyncSession, artifacts: Collection[Sha256]) -> dict[Pair, DeltaRecord]:
    """Return every pair that leads to one of these artifacts."""
    query = sa.select(DeltaRow).where(col(DeltaRow.new_sha256).in_(artifacts))
    rows = (await session.execute(query, execution_options={"populate_existing": True})).scalars()
    records = [_record(row) for row in rows]
    return {record.pair: record for record in records}


async def save(session: AsyncSession, record: DeltaRecord) -> None:
    """Write what became of a pair, in place of what was known of it."""
    values = {
        "new_sha256": record.pair.new,
        "old_sha256": record.pair.old,
        "state": record.state,
        "length_bytes": record.length_bytes,
        "full_bytes": record.full_bytes,
        "delta_sha256": record.delta_sha256,
        "message": record.message,
        "at": record.at,
    }
    await upsert(session, DeltaRow, [values])


def _record(row: DeltaRow) -> DeltaRecord:
    return DeltaRecord(
        pair=Pair(old=Sha256(row.old_sha256), new=Sha256(row.new_sha256)),
        state=row.state,
        length_bytes=row.length_bytes,
        full_bytes=row.full_bytes,
        delta_sha256=Sha256(row.delta_sha256) if row.delta_sha256 else None,
        message=row.message,
        at=row.at,
    )
