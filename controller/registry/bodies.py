"""What the registry's routes take and show, as OpenAPI describes it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, Field

from controller.http.endpoint import LARGEST, Body
from controller.http.structs import AsStruct
from controller.registry.core.measurement import Measurement, budgets
from controller.registry.core.types import (
    ArtifactSummary,
    Conversion,
    ConversionOrder,
    ConversionState,
    Dataset,
    Model,
    ModelVersion,
    Release,
    ReleaseArtifact,
    ReleaseOptions,
)
from controller.registry.measurement_bodies import BudgetView, MeasurementView
from shared.conversion import (
    AccuracyBudget,
    Candidate,
    FailureKind,
    Objective,
    PairedDrop,
    Recipe,
    RuntimeCheck,
    RuntimeVersion,
    SourceFormat,
)
from shared.dataset import DatasetKind, DatasetSpec
from shared.hardware import HardwareProfile
from shared.ids import ReleaseId, Sha256, model_name
from shared.manifest import Accuracy, Scheme
from shared.pipeline import MODEL_ONLY, PipelineSpec
from shared.request_log import LogConsent

if TYPE_CHECKING:
    from collections.abc import Sequence

ProfileBody = Annotated[HardwareProfile, AsStruct()]
RuntimeBody = Annotated[RuntimeVersion, AsStruct()]
RuntimeCheckBody = Annotated[RuntimeCheck, AsStruct()]
CandidateBody = Annotated[Candidate, AsStruct()]
LARGEST_BATCH = 1024
Sha256Text = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="sha256 in lower-case hex")]


class NewVersion(Body):
    """An uploaded file that is to become a version."""

    sha256: Sha256Text
    filename: str = Field(min_length=1, max_length=255)
    source_format: SourceFormat


class NewDataset(Body):
    """The document of a dataset, whose shards are uploaded already."""

    document: Annotated[DatasetSpec, AsStruct()]


class NewConversion(Body):
    """What to convert, with which data, for whom."""

    model: str
    version_number: int = Field(ge=1, le=LARGEST)
    dataset_sha256: Sha256Text
    pipeline: Annotated[PipelineSpec, AsStruct()] = MODEL_ONLY
    schemes: tuple[Scheme, ...] = ()
    """None named: all of them."""
    profiles: tuple[ProfileBody, ...] = ()
    """In the order of preference; none named: the generic one."""
    budget: Annotated[AccuracyBudget, AsStruct()] = AccuracyBudget()
    objective: Objective = Objective.SMALLEST
    image_input: bool = False
    batch: int | None = Field(default=1, ge=1, le=LARGEST_BATCH)
    """null leaves the batch free, which browsers and accelerators refuse."""

    def order(self) -> ConversionOrder:
        """Return what was asked for. Raises InvalidIdError."""
        return ConversionOrder(
            model=model_name(self.model),
            version_number=self.version_number,
            dataset_sha256=Sha256(self.dataset_sha256),
            pipeline=self.pipeline,
            schemes=self.schemes,
            profiles=self.profiles,
            budget=self.budget,
            objective=self.objective,
            image_input=self.image_input,
            batch=self.batch,
        )


class NewRelease(Body):
    """A conversion that is to become a release."""

    conversion_id: str = Field(max_length=36)
    pipeline: Annotated[PipelineSpec | None, AsStruct()] = None
    """In place of the conversion's; null: that one."""
    components: dict[str, str] = Field(default_factory=dict)
    """Name, as the pipeline's `run_model` steps call it → release id."""
    log_consent: Annotated[LogConsent | None, AsStruct()] = None
    """What of the requests may be written down; null: nothing."""

    def options(self) -> ReleaseOptions:
        """Return what the release adds to its conversion."""
        components = {name: ReleaseId(release) for name, release in self.components.items()}
        return ReleaseOptions(pipeline=self.pipeline, components=components, log_consent=self.log_consent)


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
    licence: str
    kind: DatasetKind
    shards: int
    size_bytes: int
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Show a dataset."""
        return cls(
            sha256=dataset.sha256,
            name=dataset.name,
            licence=dataset.licence,
            kind=dataset.kind,
            shards=dataset.shards,
            size_bytes=dataset.size_bytes,
            created_at=dataset.created_at,
        )


class Described(BaseModel):
    """The document of a dataset."""

    document: Annotated[DatasetSpec, AsStruct()]


class ArtifactView(BaseModel):
    """A converted file; `refused` is empty for one that may be released, `refused_for` names profiles it is not for."""

    scheme: Scheme
    sha256: str
    length_bytes: int
    accuracy: Annotated[Accuracy, AsStruct()]
    recipe: Annotated[Recipe | None, AsStruct()] = None
    latency_ms: float = 0.0
    latency_p95_ms: float = 0.0
    """On the converter, as the next."""
    peak_memory_bytes: int = 0
    measurements: list[MeasurementView] = []
    """On devices; only where one conversion is shown, as the next."""
    budgets: list[BudgetView] = []
    drop: Annotated[PairedDrop | None, AsStruct()] = None
    snr_db: float | None = None
    runtimes: list[RuntimeCheckBody] = []
    refused: str = ""
    refused_for: dict[str, str] = {}
    profiles: list[str] = []

    @classmethod
    def of(cls, artifact: ArtifactSummary) -> Self:
        """Show an artifact of a conversion."""
        return cls(
            scheme=artifact.scheme,
            sha256=artifact.sha256,
            length_bytes=artifact.length_bytes,
            accuracy=artifact.accuracy,
            recipe=artifact.recipe,
            latency_ms=artifact.latency_ms,
            latency_p95_ms=artifact.latency_p95_ms,
            peak_memory_bytes=artifact.peak_memory_bytes,
            drop=artifact.drop,
            snr_db=artifact.snr_db,
            runtimes=list(artifact.runtimes),
            refused=artifact.refused,
            refused_for={str(profile): why for profile, why in artifact.refused_for.items()},
        )

    @classmethod
    def measured(
        cls, artifact: ArtifactSummary, profiles: Sequence[HardwareProfile], measured: Sequence[Measurement]
    ) -> Self:
        """Show an artifact of a conversion with what devices measured of it."""
        mine = [MeasurementView.of(one) for one in measured if one.sha256 == artifact.sha256]
        verdicts = [BudgetView.of(verdict) for verdict in budgets(artifact, profiles, measured)]
        return cls.of(artifact).model_copy(update={"measurements": mine, "budgets": verdicts})

    @classmethod
    def released(cls, artifact: ReleaseArtifact) -> Self:
        """Show an artifact of a release."""
        return cls(
            scheme=artifact.scheme,
            sha256=artifact.sha256,
            length_bytes=artifact.length_bytes,
            accuracy=artifact.accuracy,
            profiles=[profile.profile_id for profile in artifact.profiles],
        )


class ConversionView(BaseModel):
    """A conversion and how it stands."""

    conversion_id: str
    model: str
    version_number: int
    dataset_sha256: str
    schemes: list[Scheme]
    profiles: list[str]
    budget: Annotated[AccuracyBudget, AsStruct()]
    objective: Objective
    image_input: bool
    batch: int | None
    runtimes: list[RuntimeBody]
    state: ConversionState
    step: str
    fraction: float
    failure: FailureKind | None
    message: str
    artifacts: list[ArtifactView]
    candidates: list[CandidateBody] = []
    """Everything that was tried; only where one conversion is shown."""
    card: bool
    """Whether there is a model card."""
    created_at: datetime

    @classmethod
    def of(cls, conversion: Conversion) -> Self:
        """Show a conversion as one of many."""
        order = conversion.order
        return cls(
            conversion_id=conversion.conversion_id,
            model=order.model,
            version_number=order.version_number,
            dataset_sha256=order.dataset_sha256,
            schemes=list(order.schemes),
            profiles=[profile.profile_id for profile in order.profiles],
            budget=order.budget,
            objective=order.objective,
            image_input=order.image_input,
            batch=order.batch,
            runtimes=list(order.runtimes),
            state=conversion.state,
            step=conversion.step,
            fraction=conversion.fraction,
            failure=conversion.failure,
            message=conversion.message,
            artifacts=[ArtifactView.of(artifact) for artifact in conversion.artifacts],
            card=conversion.card is not None,
            created_at=conversion.created_at,
        )

    @classmethod
    def whole(cls, conversion: Conversion, measured: Sequence[Measurement] = ()) -> Self:
        """Show all of a conversion."""
        profiles = conversion.order.profiles
        artifacts = [ArtifactView.measured(artifact, profiles, measured) for artifact in conversion.artifacts]
        return cls.of(conversion).model_copy(update={"candidates": list(conversion.candidates), "artifacts": artifacts})


class ComponentView(BaseModel):
    """A model of another release."""

    name: str
    model: str
    release_id: str


class ReleaseView(BaseModel):
    """A release."""

    release_id: str
    conversion_id: str
    model: str
    version_number: int
    release_counter: int
    manifest_sha256: str
    artifacts: list[ArtifactView]
    pipeline: Annotated[PipelineSpec | None, AsStruct()]
    """Where it is not the conversion's."""
    components: list[ComponentView]
    log_consent: Annotated[LogConsent | None, AsStruct()]
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
            artifacts=[ArtifactView.released(artifact) for artifact in release.artifacts],
            pipeline=release.options.pipeline,
            components=[
                ComponentView(name=one.name, model=one.model, release_id=one.release_id) for one in release.components
            ],
            log_consent=release.options.log_consent,
            created_at=release.created_at,
        )
