"""The registry's rows. No rule lives here; `store` maps them to values."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from controller.db.types import Json, UtcDateTime, one_of
from controller.registry.core.measurement import MeasurementState
from controller.registry.core.types import (
    NO_OPTIONS,
    ArtifactSummary,
    Card,
    ConversionState,
    ReleaseArtifact,
    ReleaseComponent,
    ReleaseOptions,
)
from shared.conversion import AccuracyBudget, Candidate, FailureKind, Objective, RuntimeVersion, SourceFormat
from shared.dataset import DatasetKind
from shared.hardware import DeviceHardware, HardwareProfile
from shared.manifest import Scheme
from shared.pipeline import PipelineSpec
from shared.wire import Figures


class ModelRow(SQLModel, table=True):
    """A model exists from its first version on."""

    __tablename__ = "registry_model"

    model: str = Field(primary_key=True, max_length=63)
    created_at: datetime = Field(sa_type=UtcDateTime)


class VersionRow(SQLModel, table=True):
    """One uploaded source; the same bytes are one version."""

    __tablename__ = "registry_version"
    __table_args__ = (sa.UniqueConstraint("model", "sha256"),)

    model: str = Field(primary_key=True, max_length=63)
    number: int = Field(primary_key=True)
    sha256: str = Field(max_length=64)
    size_bytes: int = Field(sa_type=sa.BigInteger)
    filename: str = Field(max_length=255)
    source_format: SourceFormat = Field(sa_type=one_of(SourceFormat))
    created_at: datetime = Field(sa_type=UtcDateTime)


class DatasetRow(SQLModel, table=True):
    """Data, named by the digest of its document, which is a blob as its shards are."""

    __tablename__ = "registry_dataset"

    sha256: str = Field(primary_key=True, max_length=64)
    name: str = Field(max_length=100)
    licence: str = Field(max_length=100)
    kind: DatasetKind = Field(sa_type=one_of(DatasetKind))
    shards: int
    size_bytes: int = Field(sa_type=sa.BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)


class ConversionRow(SQLModel, table=True):
    """An order, and how it stands; also the queue."""

    __tablename__ = "registry_conversion"

    conversion_id: str = Field(primary_key=True, max_length=36)
    model: str = Field(max_length=63)
    version_number: int
    dataset_sha256: str = Field(max_length=64)
    pipeline: PipelineSpec = Field(sa_type=Json(PipelineSpec))
    schemes: tuple[Scheme, ...] = Field(sa_type=Json(tuple[Scheme, ...]))
    profiles: tuple[HardwareProfile, ...] = Field(sa_type=Json(tuple[HardwareProfile, ...]))
    budget: AccuracyBudget = Field(sa_type=Json(AccuracyBudget))
    objective: Objective = Field(sa_type=one_of(Objective))
    image_input: bool = False
    batch: int | None = None
    runtimes: tuple[RuntimeVersion, ...] = Field(default=(), sa_type=Json(tuple[RuntimeVersion, ...]))
    state: ConversionState = Field(sa_type=one_of(ConversionState), index=True)
    step: str = Field(default="", max_length=200)
    fraction: float = 0.0
    failure: FailureKind | None = Field(default=None, sa_type=one_of(FailureKind), nullable=True)
    message: str = ""
    artifacts: tuple[ArtifactSummary, ...] = Field(default=(), sa_type=Json(tuple[ArtifactSummary, ...]))
    candidates: tuple[Candidate, ...] = Field(default=(), sa_type=Json(tuple[Candidate, ...]))
    card: Card | None = Field(default=None, sa_type=Json(Card), nullable=True)
    result_sha256: str | None = Field(default=None, max_length=64)
    attempts: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)


class MeasurementRow(SQLModel, table=True):
    """One artifact of one conversion on one device; asked for again, the row is the same with another id."""

    __tablename__ = "registry_measurement"

    conversion_id: str = Field(primary_key=True, max_length=36)
    artifact_sha256: str = Field(primary_key=True, max_length=64)
    device_id: str = Field(primary_key=True, max_length=63)
    measurement_id: str = Field(max_length=36, unique=True)
    length_bytes: int = Field(sa_type=sa.BigInteger)
    state: MeasurementState = Field(sa_type=one_of(MeasurementState), index=True)
    hardware: DeviceHardware = Field(sa_type=Json(DeviceHardware))
    figures: Figures | None = Field(default=None, sa_type=Json(Figures), nullable=True)
    reason: str = Field(default="", sa_type=sa.Text)
    ordered_at: datetime = Field(sa_type=UtcDateTime)
    sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class ReleaseRow(SQLModel, table=True):
    """A release; it has its counter before it is published, and keeps it after it is deleted."""

    __tablename__ = "registry_release"
    __table_args__ = (
        # A conversion makes one release with the same options, until that one is deleted.
        sa.Index(
            "ix_registry_release_live",
            "conversion_id",
            "options_sha256",
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        ),
    )

    release_id: str = Field(primary_key=True, max_length=36)
    conversion_id: str = Field(max_length=36)
    model: str = Field(max_length=63, index=True)
    version_number: int
    release_counter: int = Field(unique=True)
    manifest_sha256: str | None = Field(default=None, max_length=64)
    manifest_bytes: int = 0
    artifacts: tuple[ReleaseArtifact, ...] = Field(sa_type=Json(tuple[ReleaseArtifact, ...]))
    profile_order: tuple[str, ...] = Field(sa_type=Json(tuple[str, ...]))
    options: ReleaseOptions = Field(default=NO_OPTIONS, sa_type=Json(ReleaseOptions))
    options_sha256: str = Field(default="", max_length=64)
    components: tuple[ReleaseComponent, ...] = Field(default=(), sa_type=Json(tuple[ReleaseComponent, ...]))
    created_at: datetime = Field(sa_type=UtcDateTime)
    deleted_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
