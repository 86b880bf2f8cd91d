"""The one table of deltas; `store` maps its rows to values.

Nothing else names the blobs of deltas: whoever wants to clear up removes rows whose artifacts no release holds any
more, and then their blobs. Their entries in the repository stay, as those of deleted releases do.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from controller.db.types import UtcDateTime, one_of
from controller.deltas.core.pairs import DeltaState


class DeltaRow(SQLModel, table=True):
    """One pair of artifacts, and what became of it."""

    __tablename__ = "delta_pair"

    new_sha256: str = Field(primary_key=True, max_length=64)
    old_sha256: str = Field(primary_key=True, max_length=64)
    state: DeltaState = Field(sa_type=one_of(DeltaState))
    length_bytes: int = Field(sa_type=sa.BigInteger)
    full_bytes: int = Field(sa_type=sa.BigInteger)
    delta_sha256: str | None = Field(default=None, max_length=64)
    message: str = Field(default="", sa_type=sa.Text)
    at: datetime = Field(sa_type=UtcDateTime)
