"""What devices should run, as wished, as sealed, and as broadcast. Mapped to core types in `store` only."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from controller.db.types import Json, UtcDateTime, one_of
from shared.request_log import LogWish
from shared.traffic import TrafficRule
from shared.wire import DesiredModel, HaltMode, TargetRef

_NAME = 63


class WishRow(SQLModel, table=True):
    """One model's release on one device."""

    __tablename__ = "desired_wish"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    model: str = Field(primary_key=True, max_length=_NAME)
    release_id: str = Field(max_length=_NAME, index=True)
    rollout_id: str = Field(max_length=_NAME, index=True)
    entry: DesiredModel = Field(sa_type=Json(DesiredModel))
    override_blacklist: bool = False


class VariantRow(SQLModel, table=True):
    """A release of a model that one device runs beside the one that rollouts bring."""

    __tablename__ = "desired_variant"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    model: str = Field(primary_key=True, max_length=_NAME)
    variant: str = Field(primary_key=True, max_length=_NAME)
    release_id: str = Field(max_length=_NAME, index=True)
    rollout_id: str = Field(max_length=_NAME, index=True)
    """Of the change that set it: no rollout has it, and the Pulse can halt it all the same."""
    entry: DesiredModel = Field(sa_type=Json(DesiredModel))
    override_blacklist: bool = False


class TrafficRow(SQLModel, table=True):
    """How one model's requests are divided on one device, and what of them is written down."""

    __tablename__ = "desired_traffic"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    model: str = Field(primary_key=True, max_length=_NAME)
    rule: TrafficRule | None = Field(default=None, sa_type=Json(TrafficRule), nullable=True)
    log: LogWish | None = Field(default=None, sa_type=Json(LogWish), nullable=True)


class MeasurementRow(SQLModel, table=True):
    """An artifact that one device is to time; gone when it has, or took too long."""

    __tablename__ = "desired_measurement"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    measurement_id: str = Field(primary_key=True, max_length=_NAME)
    artifact: TargetRef = Field(sa_type=Json(TargetRef))


class DocumentRow(SQLModel, table=True):
    """A device's sealed document; its generation never falls, so that the row outlives even the device."""

    __tablename__ = "desired_document"

    device_id: str = Field(primary_key=True, max_length=_NAME)
    epoch: int
    generation: int
    body_digest: str = Field(max_length=64)
    sealed: bytes | None = Field(default=None, sa_type=sa.LargeBinary)
    """None: no key speaks for the device yet. Empty: the device is gone, and its topic is to be cleared."""
    issued_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime, index=True)
    published: bool = Field(default=False, index=True)
    published_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class InstallationRow(SQLModel, table=True):
    """The one row of what belongs to the whole fleet."""

    __tablename__ = "desired_installation"

    row_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    epoch: int
    sentinel: str = Field(max_length=64)
    """Random text kept retained at the broker: when it is gone, so may be everything else."""
    pulse_serial: int = 0
    pulse_sealed: bytes | None = Field(default=None, sa_type=sa.LargeBinary)
    pulse_issued_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    pulse_published: bool = False


class HaltRow(SQLModel, table=True):
    """A halted rollout. Final: it may only become stricter."""

    __tablename__ = "desired_halt"

    rollout_id: str = Field(primary_key=True, max_length=_NAME)
    mode: HaltMode = Field(sa_type=one_of(HaltMode))
    halted_at: datetime = Field(sa_type=UtcDateTime, index=True)
