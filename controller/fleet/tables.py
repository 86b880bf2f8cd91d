"""Devices and what is known of them. Mapped to core types in `store` only."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from controller.db.types import Json, UtcDateTime
from shared.hardware import DeviceHardware
from shared.wire import Report

_DEVICE = 63
_DIGEST = 64


class DeviceRow(SQLModel, table=True):
    """One device, from its invitation on; a removed one keeps its row, so that its boots never start over."""

    __tablename__ = "fleet_device"

    device_id: str = Field(primary_key=True, max_length=_DEVICE)
    site: str = Field(max_length=_DEVICE, index=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    enrolled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    removed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    fingerprint: str | None = Field(default=None, max_length=_DIGEST)
    certificate_expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    architecture: str | None = Field(default=None, max_length=_DIGEST, index=True)
    """Copied out of `hardware`, because cohorts ask for it."""
    hardware: DeviceHardware | None = Field(default=None, sa_type=Json(DeviceHardware))
    boot_serial: int = 0
    """Of the newest session; grows for ever."""


class LabelRow(SQLModel, table=True):
    """One label of a device: a row each, so that both databases can look for it by index."""

    __tablename__ = "fleet_label"

    device_id: str = Field(primary_key=True, max_length=_DEVICE)
    key: str = Field(primary_key=True, max_length=_DEVICE, index=True)
    value: str = Field(max_length=_DEVICE)


class InviteRow(SQLModel, table=True):
    """A one-time token, by its digest; whoever reads the database cannot enrol with it."""

    __tablename__ = "fleet_invite"

    token_sha256: str = Field(primary_key=True, max_length=_DIGEST)
    device_id: str = Field(max_length=_DEVICE, index=True)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    fingerprint: str | None = Field(default=None, max_length=_DIGEST)
    """Of the key that used the token first; only that one may use it again."""


class SequenceRow(SQLModel, table=True):
    """The newest message of a device on a channel: nothing older is believed."""

    __tablename__ = "fleet_sequence"

    device_id: str = Field(primary_key=True, max_length=_DEVICE)
    channel: str = Field(primary_key=True, max_length=16)
    boot_id: str = Field(max_length=32)
    seq: int


class LastSeenRow(SQLModel, table=True):
    """When a device was heard last and what it had accepted; apart, because it changes all the time."""

    __tablename__ = "fleet_last_seen"

    device_id: str = Field(primary_key=True, max_length=_DEVICE)
    at: datetime = Field(sa_type=UtcDateTime)
    epoch: int = 0
    generation: int = 0
    pulse_serial: int = 0


class ReportedRow(SQLModel, table=True):
    """The newest Report of a device, whole."""

    __tablename__ = "fleet_reported"

    device_id: str = Field(primary_key=True, max_length=_DEVICE)
    received_at: datetime = Field(sa_type=UtcDateTime)
    report: Report = Field(sa_type=Json(Report))
