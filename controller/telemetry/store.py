"""Windows and running sums as rows: the only file of the domain that sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
from sqlmodel import col

from controller.db.bulk import upsert
from controller.telemetry.measurements import Measured, SumKey, WindowKey
from controller.telemetry.tables import SumRow, WindowRow
from shared.ids import BootId, DeviceId, ModelName, ReleaseId
from shared.sketches import Sketch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

_PACK = msgspec.msgpack.Encoder()
_UNPACK = msgspec.msgpack.Decoder(dict[str, Sketch])


async def known(session: AsyncSession, keys: Collection[WindowKey]) -> set[WindowKey]:
    """Return which of the windows are stored."""
    statement = sa.select(
        col(WindowRow.device_id),
        col(WindowRow.boot_id),
        col(WindowRow.model),
        col(WindowRow.release_id),
        col(WindowRow.window_start),
    ).where(
        col(WindowRow.device_id).in_({key.of.device_id for key in keys}),
        col(WindowRow.window_start).in_({key.window_start for key in keys}),
    )
    stored = {
        WindowKey(
            of=SumKey(device_id=DeviceId(device), model=ModelName(model), release_id=ReleaseId(release)),
            boot_id=BootId(boot),
            window_start=start,
        )
        for device, boot, model, release, start in (await session.execute(statement)).all()
    }
    # The query finds each device with each window; only these pairs were asked for.
    return stored & set(keys)


async def write_windows(session: AsyncSession, windows: Mapping[WindowKey, tuple[float, Measured]]) -> None:
    """Store windows that are not there yet."""
    rows: list[dict[str, object]] = [
        {
            "device_id": key.of.device_id,
            "boot_id": key.boot_id,
            "model": key.of.model,
            "release_id": key.of.release_id,
            "window_start": key.window_start,
            "window_s": window_s,
            "counts": measured.counts,
            "sketches": _PACK.encode(measured.sketches),
        }
        for key, (window_s, measured) in windows.items()
    ]
    await upsert(session, WindowRow, rows)


async def sums(session: AsyncSession, ids: Collection[DeviceId]) -> dict[SumKey, tuple[int, Measured]]:
    """Return how many windows were counted for each release on these devices, and what they come to."""
    statement = sa.select(
        col(SumRow.device_id),
        col(SumRow.model),
        col(SumRow.release_id),
        col(SumRow.windows),
        col(SumRow.counts),
        col(SumRow.sketches),
    ).where(col(SumRow.device_id).in_(ids))
    return {
        SumKey(device_id=DeviceId(device), model=ModelName(model), release_id=ReleaseId(release)): (
            windows,
            Measured(counts=counts, sketches=_UNPACK.decode(sketches)),
        )
        for device, model, release, windows, counts, sketches in (await session.execute(statement)).all()
    }


async def write_sums(session: AsyncSession, totals: Mapping[SumKey, tuple[int, Measured]], now: datetime) -> None:
    """Store running sums."""
    rows: list[dict[str, object]] = [
        {
            "device_id": key.device_id,
            "model": key.model,
            "release_id": key.release_id,
            "windows": windows,
            "counts": measured.counts,
            "sketches": _PACK.encode(measured.sketches),
            "updated_at": now,
        }
        for key, (windows, measured) in totals.items()
    ]
    await upsert(session, SumRow, rows)


async def counts_since(session: AsyncSession, device: DeviceId, since: datetime) -> dict[SumKey, dict[str, int]]:
    """Return what a device's windows since then count together, by release."""
    statement = sa.select(col(WindowRow.model), col(WindowRow.release_id), col(WindowRow.counts)).where(
        col(WindowRow.device_id) == device, col(WindowRow.window_start) >= since
    )
    totals: dict[SumKey, dict[str, int]] = {}
    for model, release, counts in (await session.execute(statement)).all():
        key = SumKey(device_id=device, model=ModelName(model), release_id=ReleaseId(release))
        total = totals.setdefault(key, {})
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return totals


async def forget(session: AsyncSession, *, windows_before: datetime, sums_before: datetime) -> None:
    """Delete what is older than anybody asks for."""
    await session.execute(sa.delete(WindowRow).where(col(WindowRow.window_start) < windows_before))
    await session.execute(sa.delete(SumRow).where(col(SumRow.updated_at) < sums_before))
