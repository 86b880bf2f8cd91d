"""Values that domains hand to one another through ports; no domain imports another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from shared.hardware import DeviceHardware
    from shared.ids import (
        BootId,
        DeviceId,
        Epoch,
        Generation,
        HardwareProfileId,
        ModelName,
        ReleaseId,
        RolloutId,
        Sha256,
        SiteId,
    )
    from shared.request_log import LogConsent, LogWish
    from shared.traffic import TrafficRule
    from shared.wire import DesiredComponent, DesiredModel, Heartbeat, ProbationPolicy, Report, TargetRef, Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a rollout may know of a device; copied into the Assignment that it was stratified by."""

    device_id: DeviceId
    site: SiteId
    labels: dict[str, str]
    hardware: DeviceHardware | None
    """None until the device enrolled."""
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFacts:
    """What a rollout may know of a release."""

    release_id: ReleaseId
    model: ModelName
    version_number: int
    release_counter: int
    log_consent: LogConsent | None = None
    """What of its requests may be written down; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactChoice:
    """The artifact of a release that one device should run."""

    manifest: TargetRef
    artifact: TargetRef
    profile_id: HardwareProfileId
    release_counter: int
    components: tuple[DesiredComponent, ...] = ()
    """Models of other releases that its pipeline runs too, in the files for the same profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFacts:
    """An artifact of a release, for whoever asks only which file it is."""

    sha256: Sha256
    length_bytes: int
    release_counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRollout:
    """A rollout that has not ended: devices still move to its release."""

    rollout_id: RolloutId
    model: ModelName
    release_id: ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why no artifact of a release fits a device."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRelease:
    """Intent: this device should run this release of this model; `release_id` None takes the model away."""

    device_id: DeviceId
    model: ModelName
    release_id: ReleaseId | None
    rollout_id: RolloutId
    attempt: int
    choice: ArtifactChoice | None
    """Present iff `release_id` is."""
    policy: ProbationPolicy
    override_blacklist: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A release of a model that a device runs beside the one that rollouts bring."""

    entry: DesiredModel
    override_blacklist: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraffic:
    """All that an operator has set of one model on one device, beside what rollouts bring."""

    variants: dict[str, Variant] = field(default_factory=dict)
    """By name; never `shared.traffic.MAIN`, which rollouts move."""
    rule: TrafficRule | None = None
    log: LogWish | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is set."""
        return not self.variants and self.rule is None and self.log is None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """A file that the repository should vouch for: a manifest or an artifact. Immutable once published."""

    path: str
    sha256: Sha256
    """Also its name among the blobs."""
    length_bytes: int
    release_counter: int
    profiles: tuple[HardwareProfileId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A device's certificate, fresh from the authority."""

    pem: bytes
    fingerprint: Sha256
    """sha256 of the DER public key (SubjectPublicKeyInfo): the device's identity beneath its name."""
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReport:
    """A device's Report whose MAC and place in the sequence hold; the newest of its batch."""

    device_id: DeviceId
    boot_id: BootId
    seq: int
    report: Report
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenHeartbeat:
    """A device's Heartbeat whose MAC and place in the sequence hold."""

    device_id: DeviceId
    boot_id: BootId
    seq: int
    heartbeat: Heartbeat
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTelemetry:
    """A device's Telemetry whose MAC holds; a repetition is told by its window, not by its sequence."""

    device_id: DeviceId
    boot_id: BootId
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredFacts:
    """What one device should run, for showing."""

    device_id: DeviceId
    epoch: Epoch
    generation: Generation
    body_digest: Sha256
    models: tuple[DesiredModel, ...]
    """Of every variant."""
    published: bool
    traffic: tuple[TrafficRule, ...] = ()
    request_logs: tuple[LogWish, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """What the broker should carry downwards, at QoS 1."""

    topic: str
    payload: bytes
    retain: bool
