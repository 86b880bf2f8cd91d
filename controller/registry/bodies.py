"""What the registry's routes take and show, as OpenAPI describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, Field

from controller.http.endpoint import LARGEST, Body
from controller.http.structs import AsStruct
from controller.registry.core.types import (
    ArtifactSummary,
    Conversion,
    ConversionState,
    Dataset,
    Model,
    ModelVersion,
    Release,
    ReleaseArtifact,
)
from shared.conversion import FailureKind, SourceFormat
from shared.hardware import HardwareProfile
from shared.manifest import Accuracy, Scheme
from shared.pipeline import MODEL_ONLY, PipelineSpec

ProfileBody = Annotated[HardwareProfile, AsStruct()]
Sha256Text = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="sha256 in lower-case hex")]


class NewVersion(Body):
    """An uploaded file that is to become a version."""

    sha256: Sha256Text
    filename: str = Field(min_length=1, max_length=255)
    source_format: SourceFormat


class NewDataset(Body):
    """An uploaded file that is to become a dataset."""

    name: str = Field(min_length=1, max_length=100)
    sha256: Sha256Text


class NewConversion(Body):
    """What to convert, with which data, for whom."""

    model: str
    version_number: int = Field(ge=1, le=LARGEST)
    calibration_sha256: Sha256Text
    evaluation_sha256: Sha256Text
    pipeline: Annotated[PipelineSpec, AsStruct()] = MODEL_ONLY
    schemes: tuple[Scheme, ...] = ()
    """None named: all of them."""
    profiles: tuple[ProfileBody, ...] = ()
    """In the order of preference; none named: the generic one."""
    max_accuracy_drop: float = Field(default=0.01, ge=0, le=1)


class NewRelease(Body):
    """A conversion that is to become a release."""

    conversion_id: str = Field(max_length=36)


class ModelView(BaseModel):
    """A model."""

    model: str
    versions: int
    created_at: datetime

    @classmethod
    def of(cls, model: Model) -> Self:
        """Show a model."""
        return cls(model=model.model, versions=model.versions, created_at=model.created_at)


class VersionView(BaseModel):
    """A version of a model."""

    model: str
    number: int
    sha256: str
    size_bytes: int
    filename: str
    source_format: SourceFormat
    created_at: datetime

    @classmethod
    def of(cls, version: ModelVersion) -> Self:
        """Show a version."""
        return cls(
            model=version.model,
            number=version.number,
            sha256=version.sha256,
            size_bytes=version.size_bytes,
            filename=version.filename,
            source_format=version.source_format,
            created_at=version.created_at,
        )


class DatasetView(BaseModel):
    """A dataset."""

    sha256: str
    name: str
    size_bytes: int
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Show a dataset."""
        return cls(
            sha256=dataset.sha256, name=dataset.name, size_bytes=dataset.size_bytes, created_at=dataset.created_at
        )


class ArtifactView(BaseModel):
    """A converted file; `refused` is empty for one that may be released."""

    scheme: Scheme
    sha256: str
    length_bytes: int
    accuracy: Annotated[Accuracy, AsStruct()]
    refused: str = ""
    profiles: list[str] = []

    @classmethod
    def of(cls, artifact: ArtifactSummary | ReleaseArtifact) -> Self:
        """Show an artifact."""
        return cls(
            scheme=artifact.scheme,
            sha256=artifact.sha256,
            length_bytes=artifact.length_bytes,
            accuracy=artifact.accuracy,
            refused=artifact.refused if isinstance(artifact, ArtifactSummary) else "",
            profiles=[p.profile_id for p in artifact.profiles] if isinstance(artifact, ReleaseArtifact) else [],
        )


class ConversionView(BaseModel):
    """A conversion and how it stands."""

    conversion_id: str
    model: str
    version_number: int
    calibration_sha256: str
    evaluation_sha256: str
    schemes: list[Scheme]
    profiles: list[str]
    max_accuracy_drop: float
    state: ConversionState
    step: str
    fraction: float
    failure: FailureKind | None
    message: str
    artifacts: list[ArtifactView]
    created_at: datetime

    @classmethod
    def of(cls, conversion: Conversion) -> Self:
        """Show a conversion."""
        order = conversion.order
        return cls(
            conversion_id=conversion.conversion_id,
            model=order.model,
            version_number=order.version_number,
            calibration_sha256=order.calibration_sha256,
            evaluation_sha256=order.evaluation_sha256,
            schemes=list(order.schemes),
            profiles=[profile.profile_id for profile in order.profiles],
            max_accuracy_drop=order.max_accuracy_drop,
            state=conversion.state,
            step=conversion.step,
            fraction=conversion.fraction,
            failure=conversion.failure,
            message=conversion.message,
            artifacts=[ArtifactView.of(artifact) for artifact in conversion.artifacts],
            created_at=conversion.created_at,
        )


class ReleaseView(BaseModel):
    """A release."""

    release_id: str
    conversion_id: str
    model: str
    version_number: int
    release_counter: int
    manifest_sha256: str
    artifacts: list[ArtifactView]
    created_at: datetime

    @classmethod
    def of(cls, release: Release) -> Self:
        """Show a release that is published."""
        return cls(
            release_id=release.release_id,
            conversion_id=release.conversion_id,
            model=release.model,
            version_number=release.version_number,
            release_counter=release.release_counter,
            manifest_sha256=release.manifest.sha256 if release.manifest else "",
            artifacts=[ArtifactView.of(artifact) for artifact in release.artifacts],
            created_at=release.created_at,
        )
