"""What operators set of devices' traffic, as rows."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlmodel import col

from controller.db.bulk import upsert
from controller.desired.tables import TrafficRow, VariantRow
from controller.facts import ModelTraffic, Variant
from shared.ids import DeviceId, ModelName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from controller.desired.core.compose import Traffic
    from shared.ids import RolloutId

_FRESH = {"populate_existing": True}
"""Bulk statements pass by what the session remembers."""


async def traffic(session: AsyncSession, ids: Sequence[DeviceId]) -> defaultdict[DeviceId, Traffic]:
    """Return what is set of every model of these devices."""
    found: defaultdict[DeviceId, Traffic] = defaultdict(dict)
    variants: defaultdict[tuple[DeviceId, ModelName], dict[str, Variant]] = defaultdict(dict)
    chosen = sa.select(VariantRow).where(col(VariantRow.device_id).in_(ids)).order_by(col(VariantRow.variant))
    for row in (await session.execute(chosen, execution_options=_FRESH)).scalars():
        place = (DeviceId(row.device_id), ModelName(row.model))
        variants[place][row.variant] = Variant(entry=row.entry, override_blacklist=row.override_blacklist)
    for (device, model), of_model in variants.items():
        found[device][model] = ModelTraffic(variants=of_model)
    rules = sa.select(TrafficRow).where(col(TrafficRow.device_id).in_(ids))
    for rule in (await session.execute(rules, execution_options=_FRESH)).scalars():
        device, model = DeviceId(rule.device_id), ModelName(rule.model)
        found[device][model] = ModelTraffic(variants=variants[device, model], rule=rule.rule, log=rule.log)
    return found


async def write(session: AsyncSession, model: ModelName, wanted: Mapping[DeviceId, ModelTraffic]) -> None:
    """Store what is set of one model, in place of all that was."""
    ids = list(wanted)
    for table in (VariantRow, TrafficRow):
        await session.execute(sa.delete(table).where(col(table.device_id).in_(ids), col(table.model) == model))
    await upsert(session, VariantRow, [row for device in ids for row in _variants(device, model, wanted[device])])
    rules = [
        {"device_id": device, "model": model, "rule": one.rule, "log": one.log}
        for device, one in wanted.items()
        if one.rule is not None or one.log is not None
    ]
    await upsert(session, TrafficRow, rules)


async def forget(session: AsyncSession, device: DeviceId) -> None:
    """Take away all that is set of a device."""
    for table in (VariantRow, TrafficRow):
        await session.execute(sa.delete(table).where(col(table.device_id) == device))


async def names_rollout(session: AsyncSession, rollout: RolloutId) -> bool:
    """Tell whether a variant of some device came with this change."""
    chosen = sa.select(col(VariantRow.device_id)).where(col(VariantRow.rollout_id) == rollout).limit(1)
    return (await session.execute(chosen)).scalar_one_or_none() is not None


def _variants(device: DeviceId, model: ModelName, one: ModelTraffic) -> list[dict[str, object]]:
    return [
        {
            "device_id": device,
            "model": model,
            "variant": name,
            "release_id": variant.entry.release_id,
            "rollout_id": variant.entry.rollout_id,
            "entry": variant.entry,
            "override_blacklist": variant.override_blacklist,
        }
        for name, variant in one.variants.items()
    ]
