"""What the registry knows, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from shared.conversion import Candidate, PairedDrop, Recipe, RuntimeCheck
from shared.hardware import HardwareProfile
from shared.ids import HardwareProfileId, ModelName, ReleaseId, Sha256
from shared.manifest import Accuracy, Scheme
from shared.pipeline import PipelineSpec
from shared.request_log import LogConsent

if TYPE_CHECKING:
    from datetime import datetime

    from shared.conversion import AccuracyBudget, FailureKind, Objective, RuntimeVersion, SourceFormat
    from shared.dataset import DatasetKind
    from shared.ids import ConversionId
    from shared.wire import TargetRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A named line of work."""

    model: ModelName
    versions: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One uploaded source."""

    model: ModelName
    number: int
    """1, 2, 3 … within the model."""
    sha256: Sha256
    size_bytes: int
    filename: str
    source_format: SourceFormat
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Data to calibrate, to search and to judge with."""

    sha256: Sha256
    """Of its document, which names every shard by its own digest; all of them are blobs."""
    name: str
    licence: str
    kind: DatasetKind
    shards: int
    size_bytes: int
    """Of all shards together."""
    created_at: datetime


class ConversionState(StrEnum):
    """Where a conversion stands; the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class ArtifactSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a converted file; `refused` is empty for one that may be released."""

    scheme: Scheme
    sha256: Sha256
    length_bytes: int
    accuracy: Accuracy
    recipe: Recipe | None = None
    latency_ms: float = 0.0
    latency_p95_ms: float = 0.0
    """On the converter, as the next; what devices measured is kept apart."""
    peak_memory_bytes: int = 0
    drop: PairedDrop | None = None
    snr_db: float | None = None
    runtimes: tuple[RuntimeCheck, ...] = ()
    refused_for: dict[HardwareProfileId, str] = {}
    refused: str = ""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A model card among the blobs: for programs, and as a page for people."""

    json_sha256: Sha256
    page_sha256: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOrder:
    """What was asked for."""

    model: ModelName
    version_number: int
    dataset_sha256: Sha256
    pipeline: PipelineSpec
    schemes: tuple[Scheme, ...]
    profiles: tuple[HardwareProfile, ...]
    budget: AccuracyBudget
    objective: Objective
    image_input: bool
    batch: int | None
    """Fixed batch of the artifacts; None leaves it free."""
    runtimes: tuple[RuntimeVersion, ...] = ()
    """Interpreters that the fleet had when this was ordered: what passed on others must be judged anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A conversion, from the order to its outcome."""

    conversion_id: ConversionId
    order: ConversionOrder
    state: ConversionState
    step: str
    fraction: float
    failure: FailureKind | None
    message: str
    artifacts: tuple[ArtifactSummary, ...]
    candidates: tuple[Candidate, ...]
    """Everything that was tried, in order."""
    card: Card | None
    result_sha256: Sha256 | None
    """The whole result, with golden checks, among the blobs."""
    attempts: int
    """How often a worker was started for it."""
    created_at: datetime


class ReleaseArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a release, and the whole profiles that it is for."""

    path: str
    sha256: Sha256
    length_bytes: int
    scheme: Scheme
    accuracy: Accuracy
    profiles: tuple[HardwareProfile, ...]


class ReleaseOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release adds to its conversion."""

    pipeline: PipelineSpec | None = None
    """In place of the one that the conversion was judged with."""
    components: dict[str, ReleaseId] = {}
    """Name → the release whose model the pipeline runs under it."""
    log_consent: LogConsent | None = None


NO_OPTIONS = ReleaseOptions()


class ReleaseComponent(msgspec.Struct, frozen=True, kw_only=True):
    """A model of another release, as it was when this release was begun: that one may be deleted since."""

    name: str
    model: ModelName
    release_id: ReleaseId
    manifest_sha256: Sha256
    artifacts: tuple[ReleaseArtifact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release; `manifest` is None until the repository vouches for it."""

    release_id: ReleaseId
    conversion_id: ConversionId
    model: ModelName
    version_number: int
    release_counter: int
    manifest: TargetRef | None
    artifacts: tuple[ReleaseArtifact, ...]
    profile_order: tuple[str, ...]
    """Profile ids in the order of preference: a device belongs to the first that fits it."""
    created_at: datetime
    options: ReleaseOptions = NO_OPTIONS
    components: tuple[ReleaseComponent, ...] = ()
