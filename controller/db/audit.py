"""Who did what: rows that cannot be changed unseen, since each batch carries the hash of the one before it.

A batch is what one unit of work recorded. Its hash covers the previous hash, the batch's number and every entry, so
that altering, reordering or removing anything but the newest batches breaks every hash that follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
from sqlmodel import Field, SQLModel, col

from controller.db.types import Json, UtcDateTime

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

Detail = Mapping[str, str | int | float | bool | None]

GENESIS = "0" * 64
"""The hash before the first batch."""

_PAGE = 500


class AuditBatchRow(SQLModel, table=True):
    """One link of the chain."""

    __tablename__ = "audit_batch"

    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    previous_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class AuditEntryRow(SQLModel, table=True):
    """One deed."""

    __tablename__ = "audit_entry"

    batch: int = Field(primary_key=True)
    position: int = Field(primary_key=True)
    at: datetime = Field(sa_type=UtcDateTime, index=True)
    actor: str = Field(max_length=128)
    action: str = Field(max_length=64)
    subject: str = Field(max_length=256, index=True)
    detail: dict[str, str | int | float | bool | None] = Field(sa_type=Json(dict[str, str | int | float | bool | None]))


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One deed, as it is hashed."""

    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFinding:
    """The outcome of a verification; `broken_at` is the first batch that is not what was written."""

    batches: int
    head: str
    """Hash of the newest batch: noted elsewhere, it also proves that nothing was cut off the end."""
    broken_at: int | None


def link(previous: str, number: int, entries: list[AuditEntry]) -> str:
    """Return the hash of a batch."""
    body = msgspec.json.encode([previous, number, entries], order="sorted")
    return hashlib.sha256(body).hexdigest()


async def append(session: AsyncSession, entries: list[AuditEntry]) -> None:
    """Chain one batch of entries. The caller holds the only writing transaction, so the head cannot move."""
    # By the primary key, so that a long history costs nothing.
    newest = sa.select(AuditBatchRow).order_by(col(AuditBatchRow.number).desc()).limit(1)
    head = (await session.execute(newest)).scalar_one_or_none()
    number, previous = (head.number + 1, head.hash) if head else (1, GENESIS)
    session.add(AuditBatchRow(number=number, previous_hash=previous, hash=link(previous, number, entries)))
    session.add_all(
        AuditEntryRow(
            batch=number,
            position=position,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
        )
        for position, entry in enumerate(entries)
    )


async def verify(session: AsyncSession) -> AuditFinding:
    """Recompute the chain from the first batch on, a page at a time."""
    previous, number = GENESIS, 0
    while True:
        query = sa.select(AuditBatchRow).where(col(AuditBatchRow.number) > number).order_by(col(AuditBatchRow.number))
        batches = (await session.execute(query.limit(_PAGE))).scalars().all()
        if not batches:
            return AuditFinding(batches=number, head=previous, broken_at=None)
        entries = await _entries(session, first=number + 1, last=batches[-1].number)
        for batch in batches:
            expected = link(previous, number + 1, entries.get(number + 1, []))
            if (batch.number, batch.previous_hash, batch.hash) != (number + 1, previous, expected):
                return AuditFinding(batches=number, head=previous, broken_at=number + 1)
            previous, number = batch.hash, batch.number


async def _entries(session: AsyncSession, *, first: int, last: int) -> dict[int, list[AuditEntry]]:
    query = (
        sa.select(AuditEntryRow)
        .where(col(AuditEntryRow.batch).between(first, last))
        .order_by(col(AuditEntryRow.batch), col(AuditEntryRow.position))
    )
    grouped: dict[int, list[AuditEntry]] = {}
    for row in (await session.execute(query)).scalars():
        entry = AuditEntry(at=row.at, actor=row.actor, action=row.action, subject=row.subject, detail=row.detail)
        grouped.setdefault(row.batch, []).append(entry)
    return grouped
