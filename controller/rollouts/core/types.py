"""What a rollout is: its states, the edges between them, what happens to it and what it asks for. All values.

    rollout     running ⇄ paused{operator | inconclusive | insufficient_data}
                running | paused → completed | aborting → aborted | rolling_back → rolled_back
    wave        pending → running ⇄ baking → succeeded | failed | canceled

`aborting` and `aborted` belong to a halt with `stop`, `rolling_back` and `rolled_back` to one with `revert`, whoever
asked for it: a failed wave or an operator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - the state is stored: msgspec reads these annotations
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from controller.rollouts.core.tally import AssignmentFacts, Tally
from shared.evidence import Verdict
from shared.ids import RolloutId  # noqa: TC001 - as above
from shared.wire import HaltMode  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Mapping


class RolloutStatus(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ABORTING = "aborting"
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


class PauseReason(StrEnum):
    """Why a rollout holds."""

    OPERATOR = "operator"
    INCONCLUSIVE = "inconclusive"
    INSUFFICIENT_DATA = "insufficient_data"


class WaveStatus(StrEnum):
    """Where a wave stands."""

    PENDING = "pending"
    RUNNING = "running"
    BAKING = "baking"
    """Every device has its result; the soak time runs."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


_R, _W = RolloutStatus, WaveStatus

ROLLOUT_EDGES: Mapping[RolloutStatus, frozenset[RolloutStatus]] = MappingProxyType(
    {
        _R.RUNNING: frozenset({_R.PAUSED, _R.COMPLETED, _R.ABORTING, _R.ROLLING_BACK}),
        # A paused rollout completes when an operator accepts its last wave, and still fails on its guard.
        _R.PAUSED: frozenset({_R.RUNNING, _R.COMPLETED, _R.ABORTING, _R.ROLLING_BACK}),
        # A halt is final: no edge leads back to running.
        _R.ABORTING: frozenset({_R.ABORTED}),
        _R.ROLLING_BACK: frozenset({_R.ROLLED_BACK}),
        _R.COMPLETED: frozenset(),
        _R.ABORTED: frozenset(),
        _R.ROLLED_BACK: frozenset(),
    }
)
WAVE_EDGES: Mapping[WaveStatus, frozenset[WaveStatus]] = MappingProxyType(
    {
        _W.PENDING: frozenset({_W.RUNNING, _W.CANCELED}),
        _W.RUNNING: frozenset({_W.BAKING, _W.SUCCEEDED, _W.FAILED, _W.CANCELED}),
        # A device that was away comes back during the soak: the wave waits for it again.
        _W.BAKING: frozenset({_W.RUNNING, _W.SUCCEEDED, _W.FAILED, _W.CANCELED}),
        _W.SUCCEEDED: frozenset(),
        _W.FAILED: frozenset(),
        _W.CANCELED: frozenset(),
    }
)
LIVE = frozenset({_R.RUNNING, _R.PAUSED})
CLOSING = frozenset({_R.ABORTING, _R.ROLLING_BACK})
ENDED = frozenset({_R.COMPLETED, _R.ABORTED, _R.ROLLED_BACK})
OPEN_WAVE = frozenset({_W.RUNNING, _W.BAKING})

BUCKET_END = 1 << 63
"""Buckets are 0 ≤ b < 2**63: the first 63 bits of a digest, so that they fit a signed database integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveSpec:
    """A slice of the cohort: the buckets lo ≤ b < hi."""

    expression: str
    """As the operator wrote it: `1`, `25%`."""
    lo: int
    hi: int
    size: int
    """Most devices that the wave may hold. The last wave takes late joiners, so its size only says what was counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a rollout is judged and how long it waits."""

    soak_s: float
    wave_deadline_s: float
    """After this long a wave that is not through is inconclusive."""
    on_failure: HaltMode
    max_flip_rate: float
    """Margin of the fleet's paired gate, as on the device."""
    min_pairs: int
    """Pairs below which a device's flip rate is no evidence, as on the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why: a word for machines and a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveState:
    """How one wave stands: counters only, whatever the size of the fleet."""

    number: int
    """1, 2, 3 …"""
    spec: WaveSpec
    is_last: bool
    status: WaveStatus = WaveStatus.PENDING
    verdict: Verdict = Verdict.CONTINUE
    tally: Tally = field(default_factory=Tally)
    complete: bool = False
    """Every member has been found; from here on the membership is frozen."""
    requested: int = 0
    """Devices that dispatch was asked to open and has not opened yet."""
    late_failures: int = 0
    """Failures from waves closed before, that arrived during this one."""
    deadline_at: datetime | None = None
    settled_at: datetime | None = None
    """Since when every device has its result; the soak time counts from here."""

    @property
    def lo(self) -> int:
        """Where the wave's buckets begin: the last one takes all who are left, and late joiners may have any bucket."""
        return 0 if self.is_last else self.spec.lo

    @property
    def devices(self) -> int:
        """Members, as far as known."""
        return self.tally.members if self.complete else max(self.spec.size, self.tally.members)

    @property
    def in_flight(self) -> int:
        """Devices that may activate at any moment, or are about to be told to."""
        return self.requested + self.tally.in_flight

    @property
    def settled(self) -> bool:
        """Nothing more is awaited but devices that nobody has seen."""
        return self.complete and self.tally.waiting == 0 and self.in_flight == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What is left to do of a halt."""

    mode: HaltMode
    cause: Reason
    deadline_at: datetime
    swept: bool = False
    """Every device of the rollout has been told to go back, or to stay where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """All that decides what a rollout does next."""

    rollout_id: RolloutId
    rules: Rules
    waves: tuple[WaveState, ...]
    status: RolloutStatus = RolloutStatus.RUNNING
    pause: PauseReason | None = None
    paused_at: datetime | None = None
    guard_peak: float = 0.0
    """Highest e-value of the failure guard so far. Evidence is never taken back."""
    closing: Closing | None = None
    why: Reason = Reason(code="created", sentence="the rollout has not started")
    """Answer to "why is it not moving?"."""

    @property
    def current(self) -> WaveState | None:
        """The open wave, if there is one."""
        return next((wave for wave in self.waves if wave.status in OPEN_WAVE), None)

    @property
    def total(self) -> Tally:
        """All waves together."""
        total = Tally()
        for wave in self.waves:
            total = total.plus(wave.tally)
        return total

    @property
    def waiting_until(self) -> datetime | None:
        """When the running wave or the halt runs out of time; None when no deadline runs."""
        if self.closing is not None:
            return self.closing.deadline_at if self.status in CLOSING else None
        return self.current.deadline_at if self.current is not None and self.status is RolloutStatus.RUNNING else None


# --- what happens to a rollout ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The rollout begins with its first wave."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersFound:
    """Dispatch looked through the cohort for a wave's members; the members themselves came as changes."""

    at: datetime
    wave: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentChange:
    """One assignment before and after; None before it existed."""

    wave: int
    before: AssignmentFacts | None
    after: AssignmentFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentsChanged:
    """Assignments moved, whatever moved them: dispatch, a report, a timer."""

    at: datetime
    changes: tuple[AssignmentChange, ...]
    opened: int = 0
    """How many of an `OpenBucketRange` these changes have carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseAsked:
    """An operator wants it to hold."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeAsked:
    """An operator lets it go on: with a new deadline, or past a wave from which nothing more can come."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortAsked:
    """An operator ends it."""

    at: datetime
    mode: HaltMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """Dispatch has gone through all assignments after a halt."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed."""

    at: datetime
    waits_for: tuple[str, ...] = ()
    """Some devices that the rollout waits for, to be named."""


Event = Started | MembersFound | AssignmentsChanged | PauseAsked | ResumeAsked | AbortAsked | Swept | Tick


# --- what a rollout asks for --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FindMembers:
    """Look through the cohort and assign to `wave` who has a bucket lo ≤ b < hi: `limit` devices, or all for None."""

    wave: int
    lo: int
    hi: int
    limit: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBucketRange:
    """Tell the next `limit` waiting devices of `wave`, by bucket in lo ≤ b < hi, to run the release."""

    wave: int
    lo: int
    hi: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """Name the rollout in the Pulse: reaches every device at once, and is final."""

    mode: HaltMode


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePrevious:
    """Give devices the release back that they had: all of them (`revert`), or those not activated (`stop`)."""

    mode: HaltMode


Command = FindMembers | OpenBucketRange | Halt | RestorePrevious


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The next state, what to do, and why."""

    state: RolloutState
    commands: tuple[Command, ...]
    reason: Reason
    refused: bool = False
    """The event asked for something that the rollout's state does not allow; nothing changed."""
