"""Measurements of devices by window, and their running sums. Mapped in `store` only."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from controller.db.types import Json, UtcDateTime

_NAME = 63


class WindowRow(SQLModel, table=True):
    """One window of one release on one device; its key is what makes a repetition count once."""

    __tablename__ = "telemetry_window"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    boot_id: str = Field(primary_key=True, max_length=32)
    model: str = Field(primary_key=True, max_length=_NAME)
    release_id: str = Field(primary_key=True, max_length=_NAME)
    window_start: datetime = Field(primary_key=True, sa_type=UtcDateTime, index=True)
    window_s: float
    counts: dict[str, int] = Field(sa_type=Json(dict[str, int]))
    sketches: bytes = Field(sa_type=sa.LargeBinary)
    """Metric → sketch, as msgpack: bins are numbered, which JSON cannot say, and many."""


class SumRow(SQLModel, table=True):
    """All windows of one release on one device together, whether or not they are kept."""

    __tablename__ = "telemetry_sum"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    model: str = Field(primary_key=True, max_length=_NAME)
    release_id: str = Field(primary_key=True, max_length=_NAME, index=True)
    windows: int = Field(sa_type=sa.BigInteger)
    counts: dict[str, int] = Field(sa_type=Json(dict[str, int]))
    sketches: bytes = Field(sa_type=sa.LargeBinary)
    """Metric → sketch, as msgpack: bins are numbered, which JSON cannot say, and many."""
    updated_at: datetime = Field(sa_type=UtcDateTime, index=True)


class RequestRow(SQLModel, table=True):
    """One request that a device wrote down and may tell."""

    __tablename__ = "telemetry_request"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    event_id: str = Field(primary_key=True, max_length=80)
    """Begins with the serving process, which is named by when it started, and ends with a number of fixed width."""
    model: str = Field(max_length=_NAME)
    received_at: datetime = Field(sa_type=UtcDateTime, index=True)
    event: str = Field(sa_type=sa.Text)
