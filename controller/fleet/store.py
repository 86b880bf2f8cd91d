"""Devices as rows: the only file of the fleet that sees them, invitations apart."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlmodel import col

from controller.db.bulk import upsert
from controller.facts import DeviceFacts
from controller.fleet.core.device import Device, Sighting
from controller.fleet.tables import DeviceRow, LabelRow, LastSeenRow, ReportedRow, SequenceRow
from shared.ids import DeviceId, Sha256, SiteId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from controller.facts import SeenHeartbeat, VerifiedReport
    from controller.fleet.core.query import CohortQuery, Term
    from shared.hardware import DeviceHardware
    from shared.topics import Channel

Place = tuple[str, int]
"""(boot_id, seq): orders everything that a device ever sent."""


async def label_keys(session: AsyncSession) -> set[str]:
    """Return every label key that some device has."""
    return set((await session.execute(sa.select(col(LabelRow.key)).distinct())).scalars())


async def chosen(session: AsyncSession, query: CohortQuery, *, after: str, limit: int) -> list[DeviceId]:
    """Return up to `limit` ids of devices of the cohort that follow `after`, in order; removed ones never."""
    statement = sa.select(col(DeviceRow.device_id)).where(col(DeviceRow.removed_at).is_(None))
    statement = statement.where(col(DeviceRow.device_id) > after, *(_condition(term) for term in query.terms))
    statement = statement.order_by(col(DeviceRow.device_id)).limit(limit)
    return [DeviceId(device) for device in (await session.execute(statement)).scalars()]


async def count(session: AsyncSession) -> int:
    """Return how many devices there are, removed ones not counted."""
    statement = sa.select(sa.func.count()).select_from(DeviceRow).where(col(DeviceRow.removed_at).is_(None))
    return (await session.execute(statement)).scalar_one()


async def hardware_kinds(session: AsyncSession) -> list[DeviceHardware]:
    """Return what enrolled devices say of their hardware, each different word once; removed ones are absent."""
    statement = (
        sa.select(col(DeviceRow.hardware))
        .where(col(DeviceRow.enrolled_at).is_not(None), col(DeviceRow.removed_at).is_(None))
        .distinct()
    )
    return [hardware for hardware in (await session.execute(statement)).scalars() if hardware is not None]


async def devices(session: AsyncSession, ids: Sequence[DeviceId]) -> dict[DeviceId, Device]:
    """Return devices whole, removed ones too; unknown ids are absent."""
    statement = (
        sa.select(DeviceRow, LastSeenRow, ReportedRow)
        .outerjoin(LastSeenRow, col(LastSeenRow.device_id) == col(DeviceRow.device_id))
        .outerjoin(ReportedRow, col(ReportedRow.device_id) == col(DeviceRow.device_id))
        .where(col(DeviceRow.device_id).in_(ids))
    )
    labels = await _labels(session, ids)
    # As the database has them now: bulk statements pass by what the session remembers.
    rows = (await session.execute(statement, execution_options={"populate_existing": True})).all()
    return {DeviceId(row.device_id): _device(row, labels[row.device_id], seen, said) for row, seen, said in rows}


async def facts(session: AsyncSession, ids: Sequence[DeviceId]) -> list[DeviceFacts]:
    """Return what rollouts may know of devices, in the order of ids; removed ones are absent."""
    statement = (
        sa.select(DeviceRow, col(LastSeenRow.at))
        .outerjoin(LastSeenRow, col(LastSeenRow.device_id) == col(DeviceRow.device_id))
        .where(col(DeviceRow.device_id).in_(ids), col(DeviceRow.removed_at).is_(None))
        .order_by(col(DeviceRow.device_id))
    )
    labels = await _labels(session, ids)
    return [
        DeviceFacts(
            device_id=DeviceId(row.device_id),
            site=SiteId(row.site),
            labels=labels[row.device_id],
            hardware=row.hardware,
            last_seen_at=seen_at,
        )
        for row, seen_at in (await session.execute(statement, execution_options={"populate_existing": True})).all()
    ]


async def not_understanding(session: AsyncSession, ids: Sequence[DeviceId], what: str) -> set[DeviceId]:
    """Return the devices whose newest report does not name a word among what the agent understands."""
    statement = sa.select(ReportedRow).where(col(ReportedRow.device_id).in_(ids))
    rows = (await session.execute(statement, execution_options={"populate_existing": True})).scalars()
    return {DeviceId(row.device_id) for row in rows if what not in (row.report.understands or ())}


async def write_device(session: AsyncSession, device: DeviceId, values: Mapping[str, object]) -> None:
    """Set columns of an existing device."""
    await session.execute(sa.update(DeviceRow).where(col(DeviceRow.device_id) == device).values(**values))


async def write_labels(session: AsyncSession, device: DeviceId, labels: Mapping[str, str]) -> None:
    """Replace all labels of a device."""
    await session.execute(sa.delete(LabelRow).where(col(LabelRow.device_id) == device))
    await upsert(session, LabelRow, [{"device_id": device, "key": k, "value": v} for k, v in labels.items()])


async def forget_reported(session: AsyncSession, device: DeviceId) -> None:
    """Forget what a device said; a successor under its name starts unheard."""
    for table in (ReportedRow, LastSeenRow):
        await session.execute(sa.delete(table).where(col(table.device_id) == device))


async def removed(session: AsyncSession) -> list[DeviceId]:
    """Return every device that was removed."""
    statement = sa.select(col(DeviceRow.device_id)).where(col(DeviceRow.removed_at).is_not(None))
    return [DeviceId(device) for device in (await session.execute(statement)).scalars()]


async def fingerprints(session: AsyncSession, ids: Sequence[DeviceId]) -> dict[DeviceId, Sha256]:
    """Return the key fingerprints of enrolled devices."""
    statement = sa.select(col(DeviceRow.device_id), col(DeviceRow.fingerprint)).where(
        col(DeviceRow.device_id).in_(ids), col(DeviceRow.fingerprint).is_not(None), col(DeviceRow.removed_at).is_(None)
    )
    return {DeviceId(device): Sha256(known) for device, known in (await session.execute(statement)).all() if known}


async def next_boot(session: AsyncSession, device: DeviceId) -> int:
    """Raise a device's boot serial and return it."""
    statement = (
        sa.update(DeviceRow)
        .where(col(DeviceRow.device_id) == device)
        .values(boot_serial=col(DeviceRow.boot_serial) + 1)
        .returning(col(DeviceRow.boot_serial))
    )
    return (await session.execute(statement)).scalar_one()


async def raise_boots(session: AsyncSession, serials: Mapping[DeviceId, int]) -> None:
    """Set boot serials; rare, so one statement each."""
    for device, serial in serials.items():
        await write_device(session, device, {"boot_serial": serial})


async def boot_serials(session: AsyncSession, ids: Sequence[DeviceId]) -> dict[DeviceId, int]:
    """Return the newest boot serial of devices that are enrolled."""
    statement = sa.select(col(DeviceRow.device_id), col(DeviceRow.boot_serial)).where(
        col(DeviceRow.device_id).in_(ids), col(DeviceRow.fingerprint).is_not(None), col(DeviceRow.removed_at).is_(None)
    )
    return {DeviceId(device): serial for device, serial in (await session.execute(statement)).all()}


async def places(session: AsyncSession, channel: Channel, ids: Sequence[DeviceId]) -> dict[DeviceId, Place]:
    """Return the newest message of devices on a channel."""
    statement = sa.select(col(SequenceRow.device_id), col(SequenceRow.boot_id), col(SequenceRow.seq)).where(
        col(SequenceRow.device_id).in_(ids), col(SequenceRow.channel) == channel
    )
    return {DeviceId(device): (boot, seq) for device, boot, seq in (await session.execute(statement)).all()}


async def write_places(session: AsyncSession, channel: Channel, newest: Mapping[DeviceId, Place]) -> None:
    """Set the newest message of devices on a channel."""
    rows = [
        {"device_id": device, "channel": channel.value, "boot_id": boot, "seq": seq}
        for device, (boot, seq) in newest.items()
    ]
    await upsert(session, SequenceRow, rows)


async def write_sightings(session: AsyncSession, heartbeats: Sequence[SeenHeartbeat]) -> None:
    """Set when devices were seen last; one heartbeat a device."""
    rows = [
        {
            "device_id": seen.device_id,
            "at": seen.received_at,
            "epoch": seen.heartbeat.epoch,
            "generation": seen.heartbeat.generation,
            "pulse_serial": seen.heartbeat.pulse_serial,
        }
        for seen in heartbeats
    ]
    await upsert(session, LastSeenRow, rows)


async def write_reports(session: AsyncSession, reports: Sequence[VerifiedReport]) -> None:
    """Store the newest report of devices, one a device; being heard counts as being seen."""
    rows = [{"device_id": said.device_id, "received_at": said.received_at, "report": said.report} for said in reports]
    await upsert(session, ReportedRow, rows)
    seen = [
        {
            "device_id": said.device_id,
            "at": said.received_at,
            "epoch": said.report.epoch,
            "generation": said.report.generation,
        }
        for said in reports
    ]
    await upsert(session, LastSeenRow, seen)


async def write_hardware(session: AsyncSession, reports: Sequence[VerifiedReport]) -> None:
    """Note hardware that changed: a device may get memory, or a new runtime."""
    known = {fact.device_id: fact.hardware for fact in await facts(session, [said.device_id for said in reports])}
    for said in reports:
        hardware = said.report.hardware
        if said.device_id in known and known[said.device_id] != hardware:
            values = {"hardware": hardware, "architecture": hardware.architecture}
            await write_device(session, said.device_id, values)


def _condition(term: Term) -> sa.ColumnElement[bool]:
    columns = {"device": col(DeviceRow.device_id), "site": col(DeviceRow.site), "arch": col(DeviceRow.architecture)}
    if term.key in columns:
        # NULL is not equal and not unequal to anything: `arch!=x` must hold for a device without hardware, too.
        has = sa.func.coalesce(columns[term.key], "") == term.value
    else:
        labelled = sa.select(col(LabelRow.device_id)).where(
            col(LabelRow.key) == term.key, col(LabelRow.value) == term.value
        )
        has = col(DeviceRow.device_id).in_(labelled)
    return sa.not_(has) if term.negated else has


async def _labels(session: AsyncSession, ids: Sequence[DeviceId]) -> defaultdict[str, dict[str, str]]:
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    statement = sa.select(col(LabelRow.device_id), col(LabelRow.key), col(LabelRow.value)).where(
        col(LabelRow.device_id).in_(ids)
    )
    for device, key, value in (await session.execute(statement)).all():
        found[device][key] = value
    return found


def _device(row: DeviceRow, labels: dict[str, str], seen: LastSeenRow | None, said: ReportedRow | None) -> Device:
    return Device(
        device_id=DeviceId(row.device_id),
        site=SiteId(row.site),
        labels=labels,
        created_at=row.created_at,
        enrolled_at=row.enrolled_at,
        removed_at=row.removed_at,
        fingerprint=Sha256(row.fingerprint) if row.fingerprint else None,
        hardware=row.hardware,
        sighting=Sighting(at=seen.at, epoch=seen.epoch, generation=seen.generation) if seen else None,
        report=said.report if said else None,
    )
