"""What the core may ask of the shell. Each may be asked again after a crash, so each is idempotent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from agent.core.plan import BootFile, Plan, TrialRequest
    from agent.core.state import AgentState
    from shared.ids import MeasurementId, ModelName, ReleaseId
    from shared.wire import DesiredModel, Report, WantedMeasurement


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBootFile:
    """Write boot.json atomically: what serving starts from without control."""

    boot: BootFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPlan:
    """Tell serving the plan; answered by PlanApplied, or not at all."""

    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRelease:
    """Bring the release's folder, verified against repository and Desired; one that verifies already is kept."""

    model: ModelName
    release: DesiredModel


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelFetch:
    """Nobody waits for this fetch any more."""

    model: ModelName
    release_id: ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrial:
    """Try the release in a throw-away child."""

    model: ModelName
    release_id: ReleaseId
    request: TrialRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureArtifact:
    """Fetch an artifact that is no release, time it in a throw-away child, and remove it."""

    wanted: WantedMeasurement
    max_memory_bytes: int
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseMeasurement:
    """End it for now; what was fetched of its artifact stays."""

    measurement_id: MeasurementId


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetMeasurement:
    """Nobody wants it any more: end it, and remove what was fetched."""

    measurement_id: MeasurementId


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRelease:
    """Delete the release's folder."""

    release_id: ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDocuments:
    """Ask for Desired and Pulse over HTTPS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStats:
    """Ask serving for its counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """Send this snapshot until acknowledged; it replaces all of lower revision."""

    report: Report
    revision: int


Command = (
    WriteBootFile
    | ApplyPlan
    | FetchRelease
    | CancelFetch
    | RunTrial
    | MeasureArtifact
    | PauseMeasurement
    | ForgetMeasurement
    | RemoveRelease
    | RequestDocuments
    | RequestStats
    | PublishReport
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to remember, then what to do, and why."""

    state: AgentState
    commands: tuple[Command, ...]
    reason: str
    """Machine-readable words, `model: signal (detail)`, joined by `; `; empty when nothing moved."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """A decision in the making; lives inside one call of `decide` and never leaves it."""

    at: datetime
    state: AgentState
    commands: list[Command] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    measured: bool = False
    """The event at hand brought fresh counters from serving."""
    resend_plan: bool = False
    """Serving may not know the plan: send it again, unchanged."""
    rewrite_boot: bool = False
    """The boot file is another plan's, or not there."""
    resend_report: bool = False
    """The controller asked again, or may not know: send the report again, unchanged."""

    def do(self, command: Command) -> None:
        """Add a command."""
        self.commands.append(command)

    def say(self, reason: str) -> None:
        """Add a reason."""
        self.reasons.append(reason)
