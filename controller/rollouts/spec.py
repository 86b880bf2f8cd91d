"""What an operator asks for, and an assignment as the service knows it: values between rows and core."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - specs are stored: msgspec reads these annotations

from controller.rollouts.core.tally import AssignmentFacts, flip_ppm
from controller.rollouts.core.types import Rules
from shared.ids import DeviceId, ModelName, ReleaseId, RolloutId, SiteId  # noqa: TC001 - as above
from shared.wire import (
    AssignmentPhase,
    AssignmentStatus,
    HaltMode,
    PairedCounts,
    ProbationPolicy,
)

TRANSFER_ALLOWANCE_S = 900.0
"""Time for a phase that the policy does not bound: 50 MB at half a megabit per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """A rollout as it is asked for."""

    release_id: ReleaseId
    cohort: str
    waves: tuple[str, ...]
    soak_s: float
    on_failure: HaltMode
    policy: ProbationPolicy
    wave_deadline_s: float
    unreachable_after_s: float
    override_blacklist: bool

    @property
    def rules(self) -> Rules:
        """The part that the core judges by."""
        return Rules(
            soak_s=self.soak_s,
            wave_deadline_s=self.wave_deadline_s,
            on_failure=self.on_failure,
            max_flip_rate=self.policy.max_flip_rate,
            min_pairs=self.policy.min_pairs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """A rollout as it was created; never changes."""

    rollout_id: RolloutId
    model: ModelName
    request: RolloutRequest
    salt: str
    created_by: str
    created_at: datetime

    @property
    def phase_limit_s(self) -> float:
        """Longest time between two signs of progress of a device at work; silence after it counts as a failure."""
        policy = self.request.policy
        return policy.deadline_s + policy.probation_s + TRANSFER_ALLOWANCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedFacts:
    """What was known of the device when it was assigned."""

    site: SiteId
    labels: dict[str, str]
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One device's share of a rollout."""

    rollout_id: RolloutId
    device_id: DeviceId
    model: ModelName
    release_id: ReleaseId
    wave: int
    bucket: int
    facts: AssignedFacts
    changed_at: datetime
    attempt: int = 1
    status: AssignmentStatus = AssignmentStatus.QUEUED
    phase: AssignmentPhase | None = None
    reason: str = ""
    activated: bool = False
    unreachable: bool = False
    going_back: bool = False
    previous_release_id: ReleaseId | None = None
    paired: PairedCounts = field(default_factory=PairedCounts)
    fetched_bytes: int = 0
    """What bringing the artifact took, as the device tells; 0 as long as `full_bytes` is, too."""
    full_bytes: int = 0
    opened_at: datetime | None = None
    due_at: datetime | None = None
    """When a timer has to look at it."""

    def core_facts(self, rules: Rules) -> AssignmentFacts:
        """Return what the core may know of it."""
        return AssignmentFacts(
            status=self.status,
            reason=self.reason,
            opened=self.opened_at is not None,
            activated=self.activated,
            unreachable=self.unreachable,
            going_back=self.going_back,
            flip_ppm=flip_ppm(self.paired, min_pairs=rules.min_pairs),
        )
