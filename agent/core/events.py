"""What can happen to an agent. Each event carries `at`; signatures were verified before an event is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from agent.core.plan import Applied, MeasureResult, Stats, TrialResult
    from agent.core.state import Settings, Slot
    from shared.ids import BootId, KeyId, MeasurementId, ModelName, ReleaseId
    from shared.traffic import TrafficRule
    from shared.wire import Desired, Pulse


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The control process began; the state came from the journal, or is new."""

    at: datetime
    settings: Settings
    damage: Mapping[ReleaseId, str] = field(default_factory=dict)
    """Of the releases in slots, those whose files failed verification, and why."""
    on_disk: tuple[ReleaseId, ...] = ()
    recovered: tuple[Slot, ...] = ()
    """Stable slots of boot.json whose files verify; used only when the journal knows nothing."""
    recovered_traffic: tuple[TrafficRule, ...] = ()
    """Rules of boot.json, used with `recovered`."""
    boot_serial: int = 0
    """Plan serial of boot.json, below which no plan may be sent; 0 = there is none that can be read."""
    journal_problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredReceived:
    """A Desired whose seal is by a key that the repository names."""

    at: datetime
    desired: Desired
    key_id: KeyId


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredRefused:
    """A Desired that could not be unsealed or read."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PulseReceived:
    """A Pulse whose seal is by a key that the repository names."""

    at: datetime
    pulse: Pulse
    key_id: KeyId
    halts_only: bool = False
    """It may take back, and authorises nothing: what it would set going could not be remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRefreshed:
    """Repository metadata was verified, and holds until `expires_at`."""

    at: datetime
    expires_at: datetime


class FetchProblem(StrEnum):
    """Whose fault a failed fetch is, which decides what follows."""

    DELAYED = "delayed"
    """Network, server or disk: tried again for as long as the release is wanted."""
    CORRUPT = "corrupt"
    """Bytes that are not what was promised: tried again a few times, since another mirror may be honest."""
    REFUSED = "refused"
    """Repository and Desired disagree, or it is too large: tried again a few times, since metadata may lag behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFinished:
    """The release's folder is complete and verified on disk."""

    at: datetime
    model: ModelName
    release_id: ReleaseId
    version_number: int
    fetched_bytes: int = 0
    """Length of the files that were fetched for its artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed:
    """The release could not be fetched this time."""

    at: datetime
    model: ModelName
    release_id: ReleaseId
    problem: FetchProblem
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished:
    """The trial child ended; a crash, the deadline or memory is a result that did not pass."""

    at: datetime
    model: ModelName
    release_id: ReleaseId
    result: TrialResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDelayed:
    """The trial could not begin, for no fault of the candidate: memory is short."""

    at: datetime
    model: ModelName
    release_id: ReleaseId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementFinished:
    """The measuring child ended, in whatever way; its artifact is gone from the disk."""

    at: datetime
    measurement_id: MeasurementId
    result: MeasureResult


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementDelayed:
    """The artifact to measure could not be fetched this time."""

    at: datetime
    measurement_id: MeasurementId
    problem: FetchProblem
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanApplied:
    """Serving answered a plan."""

    at: datetime
    applied: Applied


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsMeasured:
    """Serving told its cumulative counters."""

    at: datetime
    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRestarted:
    """Serving began a new life. Stats and Applied of an unknown boot mean the same."""

    at: datetime
    boot_id: BootId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAcked:
    """The controller has stored every report up to this revision."""

    at: datetime
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed."""

    at: datetime


Event = (
    Started
    | DesiredReceived
    | DesiredRefused
    | PulseReceived
    | TrustRefreshed
    | FetchFinished
    | FetchFailed
    | TrialFinished
    | TrialDelayed
    | MeasurementFinished
    | MeasurementDelayed
    | PlanApplied
    | StatsMeasured
    | ServingRestarted
    | ReportAcked
    | Tick
)
