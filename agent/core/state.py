"""All that the agent knows and must not forget: one frozen value, which the journal stores whole.

Nothing here decides. Timers are wall times that were put here by events; `due` is the only way to ask for them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from agent.core.plan import Plan
from shared.hardware import DeviceHardware
from shared.ids import (
    BootId,
    DeviceId,
    Epoch,
    Generation,
    InstallationId,
    KeyId,
    ModelName,
    ReleaseId,
    RolloutId,
    Sha256,
)
from shared.probe import ModelProbe
from shared.traffic import line_of, variant_of
from shared.wire import (
    NO_BODY,
    AssignmentReport,
    AssignmentStatus,
    Desired,
    DesiredComponent,
    DesiredModel,
    MeasurementReport,
    PairedCounts,
    Pulse,
    Report,
    Transfer,
    WantedMeasurement,
)

LONGEST_TIMER_S = 3600.0 * 1.2
"""No timer of the core is set further ahead; one that is was set under a clock that has since gone back."""

AssignmentKey = tuple[ModelName, RolloutId, int, ReleaseId]
"""What makes two assignments the same: line, rollout, attempt, release."""


class Phase(StrEnum):
    """Where a model's candidate stands; `transitions.TABLE` says how it moves."""

    IDLE = "idle"
    DOWNLOADING = "downloading"
    TRIAL = "trial"
    STAGED = "staged"
    SHADOW = "shadow"
    PROBATION = "probation"


WATCHED = frozenset({Phase.SHADOW, Phase.PROBATION})
"""The candidate is loaded in the serving process: it has been activated."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this device is; a sealed document must name all three."""

    installation_id: InstallationId
    device_id: DeviceId
    key_fingerprint: Sha256


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the core needs of the configuration and the machine; renewed at every start."""

    identity: Identity
    hardware: DeviceHardware
    agent_version: str
    releases_dir: str
    pulse_max_age_s: float = 900.0
    refresh_s: float = 3600.0
    stats_s: float = 1.0
    idle_stats_s: float = 30.0
    """Between readings while nothing is on probation: only to notice that serving restarted."""
    boot_tries: int = 3
    trial_memory_bytes: int = 2 * 1024**3
    trial_deadline_s: float = 60.0


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A release on this device, with the assignment that brought it."""

    release: DesiredModel
    version_number: int = 0
    """From the verified manifest; 0 until that was fetched."""
    damaged: str = ""
    """Why its files must not be loaded, until they were fetched again."""
    probe: ModelProbe | None = None
    """What it costs here, as this life of serving, or an earlier one, has measured it; None before it was loaded."""

    @property
    def release_id(self) -> ReleaseId:
        """The release held."""
        return self.release.release_id


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What serving counted for one candidate."""

    paired: PairedCounts = PairedCounts()
    requests: int = 0
    request_errors: int = 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one attempt over several lives of the serving process, each of which starts at zero."""

    earlier: Counters = Counters()
    """Sum over the lives that ended."""
    boot_id: BootId | None = None
    start: Counters = Counters()
    """What this life had already counted for the same release before the attempt."""
    now: Counters = Counters()
    """Newest reading of this life."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """How far the present try of a candidate has come."""

    since: datetime
    """When it entered its phase."""
    changed_at: datetime
    """When phase or reason last changed."""
    reason: str = ""
    activated: bool = False
    applied: bool = False
    """This life of serving has said that it holds the candidate as this phase wants it; `since` counts from there."""
    watched_s: float = 0.0
    """How long it has been watched since; added up in small steps, so that a clock that jumps neither shortens the
    watch nor makes it endless."""
    watched_at: datetime | None = None
    """When the last of these steps ended."""
    held_by: BootId | None = None
    """The life of serving that has loaded it."""
    failures: int = 0
    """Failures in this phase, for backing off."""
    refusals: int = 0
    """Those of them that were no mere delay, for giving up."""
    retry_at: datetime | None = None
    """When to ask again for what this phase waits for; None while it is under way."""
    interruptions: int = 0
    """Lives of a trial or of serving that ended while they held this candidate."""
    fetched_bytes: int | None = None
    """Length of the files that were fetched for the artifact; None until it was on the disk."""
    evidence: Evidence = Evidence()
    shown: PairedCounts | None = None
    """The comparison as last reported; renewed rarely, so that reports do not follow every request."""
    shown_at: datetime | None = None


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """Where serving's counters of the last candidate stood, so that another try of it starts from there."""

    release_id: ReleaseId
    boot_id: BootId
    reading: Counters


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a model on this device: the model's own, or a variant's."""

    model: ModelName
    """The line: `digits`, or `digits@blue` for a variant of it."""
    wanted: DesiredModel | None = None
    """What the newest Desired says; None for a slot that was found before any Desired came."""
    phase: Phase = Phase.IDLE
    candidate: Slot | None = None
    """Present iff `phase` is not IDLE."""
    attempt: Attempt | None = None
    """Present iff `candidate` is."""
    stable: Slot | None = None
    previous: Slot | None = None
    """What was stable before the last commit: stays on disk until the next one, for a late revert."""
    mend_at: datetime | None = None
    """When to fetch a damaged stable (again)."""
    meter: Meter | None = None

    @property
    def answering(self) -> Slot | None:
        """The committed release that may answer: stable, or previous while the files of stable are damaged."""
        for slot in (self.stable, self.previous):
            if slot is not None and not slot.damaged:
                return slot
        return None

    @property
    def serving(self) -> Slot | None:
        """The release that answers by default: the candidate in its probation, else what is committed."""
        return self.candidate if self.phase is Phase.PROBATION else self.answering


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """The newest that one director key has told us; nothing older is believed from it."""

    key_id: KeyId
    epoch: Epoch = Epoch(0)
    generation: Generation = Generation(0)
    pulse_epoch: Epoch = Epoch(0)
    pulse_serial: int = -1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an assignment ended; told until acknowledged, remembered after, so that no end is ever taken back."""

    report: AssignmentReport
    revision: int = 0
    """First report revision that carried it; 0 = none yet."""
    acked: bool = False


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that Desired lists to be timed here."""

    wanted: WantedMeasurement
    running: bool = False
    """Being fetched, or timed in its child."""
    failures: int = 0
    """Delays in a row, for backing off."""
    refusals: int = 0
    """Fetches that were no mere delay, for giving up."""
    interruptions: int = 0
    """Lives of control that ended while it ran."""
    retry_at: datetime | None = None
    ended: MeasurementReport | None = None


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole."""

    schema_version: int = 1
    settings: Settings
    floors: tuple[Floor, ...] = ()
    trusted_until: datetime | None = None
    """Expiry of the newest verified repository metadata: how far a document's clock may push `verified_at`."""
    verified_at: datetime | None = None
    """Newest time that a verified document proved; time does not go back behind it."""
    desired: Desired | None = None
    desired_key: KeyId | None = None
    body_digest: Sha256 = NO_BODY
    desired_refused: str = ""
    pulse: Pulse | None = None
    pulse_received_at: datetime | None = None
    """In this life of the control process; a Pulse from an earlier life authorises nothing."""
    stale: bool = True
    models: tuple[ModelState, ...] = ()
    """Sorted by line."""
    blacklist: tuple[Sha256, ...] = ()
    """Artifacts that ran here and were reverted, oldest first."""
    outcomes: tuple[Outcome, ...] = ()
    """Oldest first."""
    on_disk: tuple[ReleaseId, ...] = ()
    """Release folders that exist."""
    measurements: tuple[Measurement, ...] = ()
    """As Desired lists them; those that ended stay until it no longer does."""
    plan: Plan = Plan(serial=0)
    applied_serial: int = 0
    """Newest plan that serving said it has converged on."""
    plan_sent_at: datetime | None = None
    serving_boot_id: BootId | None = None
    refresh_at: datetime | None = None
    """When to ask for Desired and Pulse over HTTPS next."""
    refreshes: int = 0
    stats_at: datetime | None = None
    """When to read the serving process next."""
    report: Report | None = None
    """As last published."""
    report_revision: int = 0
    note: str = ""
    """What befell the journal at this start, for reasons: `journal_rebuilt`."""


def new_state(settings: Settings) -> AgentState:
    """Return the state of a device that knows nothing but who it is."""
    return AgentState(settings=settings)


def line(assignment: DesiredModel | AssignmentReport) -> ModelName:
    """Return the line of releases that an assignment moves."""
    return line_of(assignment.model, variant_of(assignment.variant))


def key_of(assignment: DesiredModel | AssignmentReport) -> AssignmentKey:
    """Return what identifies an assignment."""
    return (line(assignment), assignment.rollout_id, assignment.attempt, assignment.release_id)


def outcome_of(state: AgentState, wanted: DesiredModel) -> AssignmentReport | None:
    """Return how this assignment ended, or None while it has not."""
    key = key_of(wanted)
    for outcome in reversed(state.outcomes):
        if key_of(outcome.report) == key:
            return outcome.report
    return None


def transfer_of(release: DesiredModel, attempt: Attempt | None) -> Transfer | msgspec.UnsetType:
    """Return what bringing a release took; unset until it is on the disk."""
    if attempt is None or attempt.fetched_bytes is None:
        return msgspec.UNSET
    return Transfer(fetched_bytes=attempt.fetched_bytes, full_bytes=release.artifact.length_bytes)


def is_settled(state: AgentState, model: ModelState) -> bool:
    """Tell whether the wanted assignment has ended for good; a success whose release has left is open again."""
    if model.wanted is None:
        return True
    ended = outcome_of(state, model.wanted)
    if ended is None:
        return False
    return ended.status is not AssignmentStatus.SUCCEEDED or holds(model.stable, model.wanted)


def holds(slot: Slot | None, wanted: DesiredModel) -> bool:
    """Tell whether a slot holds exactly the files that are wanted."""
    return (
        slot is not None
        and slot.release.release_id == wanted.release_id
        and slot.release.artifact.sha256 == wanted.artifact.sha256
        and slot.release.manifest.sha256 == wanted.manifest.sha256
        and component_digests(slot.release) == component_digests(wanted)
    )


def components_of(release: DesiredModel) -> tuple[DesiredComponent, ...]:
    """Return the models of other releases that a release's pipeline runs."""
    return () if isinstance(release.components, msgspec.UnsetType) else release.components


def component_digests(release: DesiredModel) -> dict[str, Sha256]:
    """Return the digests of the models of other releases that a release's pipeline runs, by their names."""
    return {each.name: each.artifact.sha256 for each in components_of(release)}


def now_of(state: AgentState, at: datetime) -> datetime:
    """Return the time by which documents are judged: the clock's, never behind what was verified."""
    return at if state.verified_at is None or at > state.verified_at else state.verified_at


def due(at: datetime, when: datetime | None) -> bool:
    """Tell whether a timer has run out; None has, and so has one from before the clock was put back."""
    return when is None or at >= when or when - at > timedelta(seconds=LONGEST_TIMER_S)


def after(at: datetime, seconds: float) -> datetime:
    """Return the time `seconds` after `at`."""
    return at + timedelta(seconds=seconds)
