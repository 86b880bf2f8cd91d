"""Values that domains hand to one another through ports; no domain imports another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from shared.hardware import DeviceHardware
    from shared.ids import DeviceId, HardwareProfileId, ModelName, ReleaseId, RolloutId, SiteId
    from shared.wire import ProbationPolicy, TargetRef


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactChoice:
    """The artifact of a release that one device should run."""

    manifest: TargetRef
    artifact: TargetRef
    profile_id: HardwareProfileId
    release_counter: int


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
