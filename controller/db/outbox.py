"""What was decided and is still to be done: rows written with the decision, taken off when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from controller.db.types import UtcDateTime


class OutboxRow(SQLModel, table=True):
    """One intent, in the order of commit."""

    __tablename__ = "outbox"

    # SQLite numbers rows by itself only in a column of exactly this type.
    id: int | None = Field(default=None, primary_key=True, sa_type=sa.BigInteger().with_variant(sa.Integer, "sqlite"))
    kind: str = Field(max_length=64, index=True)
    payload: bytes = Field(sa_type=sa.LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """An intent as its consumer reads it; `payload` is the JSON of the struct that was emitted."""

    item_id: int
    kind: str
    payload: bytes
    created_at: datetime
