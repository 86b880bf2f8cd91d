"""Wishes, documents, halts and the pulse as rows: the only file of the domain that sees them."""

from __future__ import annotations

import secrets
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from sqlmodel import col

from controller.db.bulk import upsert
from controller.desired.core.compose import Wish, Wishes
from controller.desired.core.document import Document
from controller.desired.tables import DocumentRow, HaltRow, InstallationRow, MeasurementRow, VariantRow, WishRow
from shared.ids import DeviceId, Epoch, Generation, MeasurementId, ModelName, ReleaseId, RolloutId, Sha256
from shared.wire import WantedMeasurement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from shared.wire import HaltMode

T = TypeVar("T")

_THE_ROW = 1
_FIRST_EPOCH = 1
_SENTINEL_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PulseState:
    """The newest pulse."""

    serial: int
    sealed: bytes
    issued_at: datetime
    published: bool


async def wishes(session: AsyncSession, ids: Sequence[DeviceId]) -> defaultdict[DeviceId, Wishes]:
    """Return all wishes of devices."""
    found: defaultdict[DeviceId, Wishes] = defaultdict(dict)
    for row in await _rows(session, sa.select(WishRow).where(col(WishRow.device_id).in_(ids))):
        wish = Wish(entry=row.entry, override_blacklist=row.override_blacklist)
        found[DeviceId(row.device_id)][ModelName(row.model)] = wish
    return found


async def current(session: AsyncSession, ids: Sequence[DeviceId], model: ModelName) -> dict[DeviceId, ReleaseId]:
    """Return which release of a model devices should run; those that should run none are absent."""
    statement = sa.select(col(WishRow.device_id), col(WishRow.release_id)).where(
        col(WishRow.device_id).in_(ids), col(WishRow.model) == model
    )
    return {DeviceId(device): ReleaseId(release) for device, release in (await session.execute(statement)).all()}


async def write_wishes(
    session: AsyncSession, before: Mapping[DeviceId, Wishes], after: Mapping[DeviceId, Wishes]
) -> None:
    """Store what differs between two states of the same devices."""
    gone: defaultdict[ModelName, list[DeviceId]] = defaultdict(list)
    rows: list[dict[str, object]] = []
    for device, wished in after.items():
        known = before.get(device, {})
        for model in known.keys() - wished.keys():
            gone[model].append(device)
        rows += [_wish_values(device, model, wish) for model, wish in wished.items() if known.get(model) != wish]
    for model, devices in gone.items():
        await session.execute(
            sa.delete(WishRow).where(col(WishRow.device_id).in_(devices), col(WishRow.model) == model)
        )
    await upsert(session, WishRow, rows)


async def measurements(
    session: AsyncSession, ids: Sequence[DeviceId]
) -> defaultdict[DeviceId, tuple[WantedMeasurement, ...]]:
    """Return what devices are to time."""
    found: defaultdict[DeviceId, tuple[WantedMeasurement, ...]] = defaultdict(tuple)
    for row in await _rows(session, sa.select(MeasurementRow).where(col(MeasurementRow.device_id).in_(ids))):
        wanted = WantedMeasurement(measurement_id=MeasurementId(row.measurement_id), artifact=row.artifact)
        found[DeviceId(row.device_id)] += (wanted,)
    return found


async def write_measurements(session: AsyncSession, device: DeviceId, wanted: Sequence[WantedMeasurement]) -> None:
    """Have a device time these and no others."""
    kept = [one.measurement_id for one in wanted]
    await session.execute(
        sa.delete(MeasurementRow).where(
            col(MeasurementRow.device_id) == device, col(MeasurementRow.measurement_id).not_in(kept)
        )
    )
    rows = [{"device_id": device, "measurement_id": one.measurement_id, "artifact": one.artifact} for one in wanted]
    await upsert(session, MeasurementRow, rows)


async def documents(session: AsyncSession, ids: Sequence[DeviceId]) -> dict[DeviceId, Document]:
    """Return the documents of devices that have one."""
    rows = await _rows(session, sa.select(DocumentRow).where(col(DocumentRow.device_id).in_(ids)))
    return {DeviceId(row.device_id): _document(row) for row in rows}


async def write_documents(session: AsyncSession, changed: Iterable[Document]) -> None:
    """Store documents whole."""
    await upsert(session, DocumentRow, [_document_values(document) for document in changed])


async def unpublished(session: AsyncSession, limit: int) -> list[Document]:
    """Return documents that the broker does not have yet."""
    statement = (
        sa.select(DocumentRow)
        .where(col(DocumentRow.published).is_(False), col(DocumentRow.sealed).is_not(None))
        .order_by(col(DocumentRow.device_id))
        .limit(limit)
    )
    return [_document(row) for row in await _rows(session, statement)]


async def mark_published(session: AsyncSession, told: Sequence[Document], now: datetime) -> None:
    """Note that the broker has these very documents; one that changed meanwhile is left to be published."""
    standing = await documents(session, [document.device_id for document in told])
    # By the sealed bytes, not the generation: a re-seal keeps the generation, and is to be published as well.
    same = [d.device_id for d in told if d.device_id in standing and standing[d.device_id].sealed == d.sealed]
    await _set_published(session, col(DocumentRow.device_id).in_(same), published=True, published_at=now)


async def mark_unpublished(session: AsyncSession, ids: Sequence[DeviceId]) -> None:
    """Have documents published again."""
    await _set_published(session, col(DocumentRow.device_id).in_(ids), published=False)


async def mark_recent_unpublished(session: AsyncSession, since: datetime) -> None:
    """Have documents published again that were published after a time."""
    await _set_published(session, col(DocumentRow.published_at) > since, published=False)


async def mark_all_unpublished(session: AsyncSession) -> None:
    """Have every document published again."""
    await _set_published(session, col(DocumentRow.published).is_(True), published=False)


async def to_reseal(session: AsyncSession, *, before: datetime, limit: int) -> list[DeviceId]:
    """Return devices whose document expires before a time."""
    statement = (
        sa.select(col(DocumentRow.device_id))
        .where(col(DocumentRow.expires_at) < before, sa.func.length(col(DocumentRow.sealed)) > 0)
        # In the order of the index: by device, this would read the whole fleet each minute to find nothing.
        .order_by(col(DocumentRow.expires_at))
        .limit(limit)
    )
    return [DeviceId(device) for device in (await session.execute(statement)).scalars()]


async def installation(session: AsyncSession) -> InstallationRow:
    """Return the one row, made at the first call of a writing unit of work."""
    row = await session.get(InstallationRow, _THE_ROW)
    if row is None:
        sentinel = secrets.token_urlsafe(_SENTINEL_BYTES)
        row = InstallationRow(row_id=_THE_ROW, epoch=_FIRST_EPOCH, sentinel=sentinel)
        session.add(row)
        await session.flush()
    return row


async def epoch(session: AsyncSession) -> Epoch:
    """Return the incarnation of the database."""
    return Epoch((await installation(session)).epoch)


async def raise_epoch(session: AsyncSession, now: datetime) -> Epoch:
    """Begin a new incarnation: everything sealed from now on is newer than anything sealed before."""
    row = await installation(session)
    row.epoch += 1
    # The pulse as well: devices refuse one of an earlier epoch, and its serial counts anew in each.
    row.pulse_sealed = None
    session.add(row)
    # Due at once: documents of an earlier incarnation are older than any of this one, whatever their generation.
    await session.execute(sa.update(DocumentRow).values(expires_at=now))
    return Epoch(row.epoch)


async def sentinel(session: AsyncSession) -> bytes:
    """Return the text that the broker should retain."""
    return (await installation(session)).sentinel.encode()


async def pulse(session: AsyncSession) -> PulseState | None:
    """Return the newest pulse, or None before the first."""
    row = await session.get(InstallationRow, _THE_ROW)
    if row is None or row.pulse_sealed is None or row.pulse_issued_at is None:
        return None
    return PulseState(
        serial=row.pulse_serial,
        sealed=row.pulse_sealed,
        issued_at=row.pulse_issued_at,
        published=row.pulse_published,
    )


async def write_pulse(session: AsyncSession, state: PulseState) -> None:
    """Store the newest pulse."""
    row = await installation(session)
    row.pulse_serial, row.pulse_sealed = state.serial, state.sealed
    row.pulse_issued_at, row.pulse_published = state.issued_at, state.published
    session.add(row)


async def mark_pulse_unpublished(session: AsyncSession) -> None:
    """Have the newest pulse published again."""
    await session.execute(sa.update(InstallationRow).values(pulse_published=False))


async def halts(session: AsyncSession, *, since: datetime, limit: int) -> dict[RolloutId, HaltMode]:
    """Return the halted rollouts that some device may still hold: recent ones, and those that a wish still names."""
    named = sa.or_(
        *(sa.exists().where(col(row.rollout_id) == col(HaltRow.rollout_id)) for row in (WishRow, VariantRow))
    )
    statement = (
        sa.select(col(HaltRow.rollout_id), col(HaltRow.mode))
        .where(sa.or_(col(HaltRow.halted_at) > since, named))
        .order_by(col(HaltRow.halted_at).desc())
        .limit(limit)
    )
    return {RolloutId(rollout): mode for rollout, mode in (await session.execute(statement)).all()}


async def halted(session: AsyncSession, rollouts: Collection[RolloutId]) -> set[RolloutId]:
    """Return which of these are halted."""
    statement = sa.select(col(HaltRow.rollout_id)).where(col(HaltRow.rollout_id).in_(rollouts))
    return {RolloutId(rollout) for rollout in (await session.execute(statement)).scalars()}


async def halt(session: AsyncSession, rollout: RolloutId) -> HaltMode | None:
    """Return how a rollout is halted, or None."""
    statement = sa.select(col(HaltRow.mode)).where(col(HaltRow.rollout_id) == rollout)
    return (await session.execute(statement)).scalar_one_or_none()


async def write_halt(session: AsyncSession, rollout: RolloutId, mode: HaltMode, now: datetime) -> None:
    """Halt a rollout."""
    await upsert(session, HaltRow, [{"rollout_id": rollout, "mode": mode, "halted_at": now}])


async def devices_of(session: AsyncSession, release: ReleaseId) -> int:
    """Return how many devices should run a release, as whatever variant."""
    running = sa.union(
        *(sa.select(col(row.device_id)).where(col(row.release_id) == release) for row in (WishRow, VariantRow))
    ).subquery()
    return (await session.execute(sa.select(sa.func.count()).select_from(running))).scalar_one()


async def releases_of(session: AsyncSession, model: ModelName, limit: int) -> list[ReleaseId]:
    """Return the releases of a model that devices should run, the most common first."""
    statement = (
        sa.select(col(WishRow.release_id))
        .where(col(WishRow.model) == model)
        .group_by(col(WishRow.release_id))
        .order_by(sa.func.count().desc(), col(WishRow.release_id))
        .limit(limit)
    )
    return [ReleaseId(release) for release in (await session.execute(statement)).scalars()]


async def _rows(session: AsyncSession, statement: sa.Select[T]) -> Sequence[T]:
    """Read rows as the database has them now: bulk statements pass by what the session remembers."""
    return (await session.execute(statement, execution_options={"populate_existing": True})).scalars().all()


async def _set_published(session: AsyncSession, which: sa.ColumnElement[bool], **values: object) -> None:
    await session.execute(sa.update(DocumentRow).where(which).values(**values))


def _wish_values(device: DeviceId, model: ModelName, wish: Wish) -> dict[str, object]:
    return {
        "device_id": device,
        "model": model,
        "release_id": wish.entry.release_id,
        "rollout_id": wish.entry.rollout_id,
        "entry": wish.entry,
        "override_blacklist": wish.override_blacklist,
    }


def _document(row: DocumentRow) -> Document:
    return Document(
        device_id=DeviceId(row.device_id),
        epoch=Epoch(row.epoch),
        generation=Generation(row.generation),
        body_digest=Sha256(row.body_digest),
        sealed=row.sealed,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        published=row.published,
        published_at=row.published_at,
    )


def _document_values(document: Document) -> dict[str, object]:
    return {
        "device_id": document.device_id,
        "epoch": document.epoch,
        "generation": document.generation,
        "body_digest": document.body_digest,
        "sealed": document.sealed,
        "issued_at": document.issued_at,
        "expires_at": document.expires_at,
        "published": document.published,
        "published_at": document.published_at,
    }
