"""Every message between controller and device: frozen, with `schema_version`, readers ignore what they do not know.

Upwards (device → controller) a message travels in an `Uplink`, proved by a MAC. Downwards, Desired and Pulse are sealed
documents (`shared.signing`); `Acked` is a hint that may be lost, at no harm but a repeated report.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from shared.hardware import DeviceHardware, Runtime
from shared.ids import (
    BootId,
    DeviceId,
    Epoch,
    Generation,
    HardwareProfileId,
    InstallationId,
    MeasurementId,
    ModelName,
    ReleaseId,
    RolloutId,
    Sha256,
)
from shared.probe import ModelProbe
from shared.request_log import LogWish
from shared.sketches import Sketch
from shared.traffic import TrafficRule

SCHEMA_VERSION = 1
DESIRED_TYPE = "application/vnd.litefleet.desired+json"
PULSE_TYPE = "application/vnd.litefleet.pulse+json"
TRAFFIC = "traffic"
"""What an agent understands that takes variants, traffic rules, request logs, canary shares and components. One of
before refuses a Desired with a variant whole, and skips the rest, so that it never agrees on the digest."""
LONGEST_WAIT_S = 366 * 86_400.0
"""A year: nobody means to wait longer, and a time beyond the calendar could be neither computed nor stored."""

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone: one without cannot be compared with a clock, so it must not get as far as somebody trying."""


FileBytes = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
"""A size as a device tells it: bounded, so that the sum over a fleet still fits a database's integer."""


class AssignmentStatus(StrEnum):
    """One device's share of a rollout. All but the first two are terminal and sticky; a new try is a new attempt."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CANCELED = "canceled"
    REMOVED = "removed"
    SUPERSEDED = "superseded"


TERMINAL = frozenset(AssignmentStatus) - {AssignmentStatus.QUEUED, AssignmentStatus.IN_PROGRESS}


class AssignmentPhase(StrEnum):
    """Where an assignment in progress stands on the device."""

    DOWNLOADING = "downloading"
    TRIAL = "trial"
    STAGED = "staged"
    """Ready, but may not activate: the Pulse is stale or its rollout is halted."""
    SHADOW = "shadow"
    """Loaded beside stable; stable answers, the candidate is compared on the same requests."""
    PROBATION = "probation"
    """The candidate answers, watched; stable is still loaded."""


class PairedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate against stable on the same requests of one device: integers, so that they add up."""

    pairs: int = 0
    flips: int = 0
    """Pairs whose top answers differ."""
    slower: int = 0
    """Pairs in which the candidate took more than the policy's latency ratio times as long."""
    candidate_errors: int = 0
    """Pairs in which only the candidate failed."""


class ProbationPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate must show on the device before it is committed."""

    min_pairs: Annotated[int, msgspec.Meta(ge=0)] = 30
    """Paired requests below which there is no verdict."""
    max_flip_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Margin on the share (0..1) of requests answered differently."""
    max_latency_ratio: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    """Margin on the median of candidate time / stable time."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """Chance (0..1) of a wrong device verdict, over all looks together."""
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_WAIT_S)] = 10.0
    """How long the candidate answers, watched, after the comparison passed (or, on a first release, at all)."""
    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_WAIT_S)] = 900.0
    """After this long in shadow without a verdict the device says `inconclusive` and keeps stable serving."""
    canary_share: Annotated[float, msgspec.Meta(gt=0, le=1)] | msgspec.UnsetType = msgspec.UNSET
    """Share (0..1] of requests that the candidate answers in probation, stable the others; unset: all."""


class TargetRef(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the repository, exactly."""

    path: str
    length_bytes: int
    sha256: Sha256


class DesiredComponent(msgspec.Struct, frozen=True, kw_only=True):
    """A model of another release that the pipeline of this one runs too."""

    name: str
    """As the manifest's component and the pipeline's `run_model` name it."""
    artifact: TargetRef


class DesiredModel(msgspec.Struct, frozen=True, kw_only=True):
    """The release of one model that the device should run."""

    model: ModelName
    release_id: ReleaseId
    rollout_id: RolloutId
    attempt: int
    manifest: TargetRef
    artifact: TargetRef
    profile_id: HardwareProfileId
    release_counter: int
    policy: ProbationPolicy
    variant: str | msgspec.UnsetType = msgspec.UNSET
    """Which of the model's variants this is; unset: `shared.traffic.MAIN`."""
    components: tuple[DesiredComponent, ...] | msgspec.UnsetType = msgspec.UNSET


class WantedMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact to be timed on the device in a throw-away child, and removed; it is never served."""

    measurement_id: MeasurementId
    """A new one each time, so that an earlier result is not taken for the answer."""
    artifact: TargetRef
    """`measurements/{sha256}.tflite`."""


class DesiredBody(msgspec.Struct, frozen=True, kw_only=True):
    """What the device should run, complete. Its digest decides whether the generation moves."""

    models: tuple[DesiredModel, ...]
    """Sorted by model and variant. What is not listed is to be removed from the device."""
    blacklist_overrides: tuple[Sha256, ...] = ()
    """Artifact digests that the device once reverted and is told to try again."""
    measurements: tuple[WantedMeasurement, ...] | msgspec.UnsetType = msgspec.UNSET
    """In this order, one at a time, while nothing is rolled out. Unset rather than empty: agents that do not know the
    field then compute the same digest of the body."""
    traffic: tuple[TrafficRule, ...] | msgspec.UnsetType = msgspec.UNSET
    """Sorted by model, one each at most."""
    request_logs: tuple[LogWish, ...] | msgspec.UnsetType = msgspec.UNSET
    """Sorted by model, one each at most."""


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """The sealed document of what one device should run. Ordered by (epoch, generation)."""

    schema_version: int = SCHEMA_VERSION
    installation_id: InstallationId
    device_id: DeviceId
    key_fingerprint: Sha256
    """sha256 of the DER public key (SubjectPublicKeyInfo) that the device enrolled with."""
    epoch: Epoch
    generation: Generation
    body: DesiredBody
    issued_at: Instant
    expires_at: Instant


class HaltMode(StrEnum):
    """What a halted rollout means for a device."""

    STOP = "stop"
    """Nothing more activates; what was activated stays."""
    REVERT = "revert"
    """A slot that came from this rollout goes back at once, until a higher generation."""


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """The sealed, retained broadcast without which nothing activates."""

    schema_version: int = SCHEMA_VERSION
    installation_id: InstallationId
    epoch: Epoch
    serial: int
    issued_at: Instant
    halted: dict[RolloutId, HaltMode] = {}


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What one device saved by a delta, or did not."""

    fetched_bytes: FileBytes
    """Length of the files that were fetched for the artifact: a delta, the artifact itself, both, or none."""
    full_bytes: FileBytes
    """Length of the artifact."""


class AssignmentReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one assignment stands, as the device sees it."""

    model: ModelName
    release_id: ReleaseId
    rollout_id: RolloutId
    attempt: int
    status: AssignmentStatus
    phase: AssignmentPhase | None = None
    activated: bool = False
    """The candidate has been loaded into the serving process in this attempt."""
    reason: str = ""
    """Machine-readable word, with detail after a colon: `golden_mismatch: case 3 …`."""
    changed_at: Instant
    paired: PairedCounts | None = None
    variant: str | msgspec.UnsetType = msgspec.UNSET
    """Unset: `shared.traffic.MAIN`."""
    transfer: Transfer | msgspec.UnsetType = msgspec.UNSET
    """What bringing the artifact took, from when it is on the disk; agents before 0.2 never say."""


Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one invocation of an artifact takes on a device, on one thread, as it is served."""

    runs: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    cpu_p50_ms: Milliseconds
    """Processor time: what the invocation itself costs, however busy the device was."""
    cpu_p95_ms: Milliseconds
    """Budgets of latency are held against this one."""
    wall_p50_ms: Milliseconds
    """Elapsed time, at lower priority than serving: all that other work left of the device."""
    wall_p95_ms: Milliseconds
    peak_memory_bytes: FileBytes
    """Of the child from before the model was read, and no less than that."""


class MeasurementReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a measurement ended; told for as long as the Desired lists it."""

    measurement_id: MeasurementId
    sha256: Sha256
    runtime: Runtime
    runtime_version: str
    ended_at: Instant
    figures: Figures | None = None
    """None: it failed."""
    reason: str = ""
    """Why it failed, machine-readable word first: `crashed: SIGSEGV`, `memory_short: …`."""


class SlotReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the device holds for one model."""

    model: ModelName
    stable: ReleaseId | None = None
    candidate: ReleaseId | None = None
    unavailable_reason: str = ""
    """Why the model answers 503, or with another release than `stable`; empty when stable serves."""
    variant: str | msgspec.UnsetType = msgspec.UNSET
    """Unset: `shared.traffic.MAIN`."""
    probe: ModelProbe | msgspec.UnsetType = msgspec.UNSET
    """Of the release that serves, once it is loaded."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Reported: the whole state, sent on every change until acknowledged; a newer one replaces all before it.

    Terminal assignments stay listed until a report that carried them was acknowledged.
    """

    schema_version: int = SCHEMA_VERSION
    epoch: Epoch
    generation: Generation
    body_digest: Sha256
    agent_version: str
    hardware: DeviceHardware
    slots: tuple[SlotReport, ...] = ()
    assignments: tuple[AssignmentReport, ...] = ()
    stale: bool = False
    """The newest Pulse is too old: the device serves, but activates nothing."""
    desired_refused: str = ""
    """Why the newest sealed Desired was refused, if it was: `generation_not_newer`, `unseal_failed: …`."""
    measurements: tuple[MeasurementReport, ...] | msgspec.UnsetType = msgspec.UNSET
    """Those that ended; unset when none did."""
    understands: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """What this agent takes in a Desired beyond the first version's: `TRAFFIC`. Unset by agents of before."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """I am alive, and this is the Desired that I have accepted."""

    schema_version: int = SCHEMA_VERSION
    epoch: Epoch
    generation: Generation
    body_digest: Sha256
    pulse_serial: int


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one release on one device in one window; names are rows of `shared.metrics`."""

    model: ModelName
    release_id: ReleaseId
    counts: dict[str, int] = {}
    sketches: dict[str, Sketch] = {}


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of a window. Keyed by (device, boot, window_start), so that a repetition never counts twice."""

    schema_version: int = SCHEMA_VERSION
    window_start: Instant
    window_s: float
    series: tuple[Series, ...]


class Uplink(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of every upward message; `mac` is `signing.uplink_mac` over topic, boot_id, seq and the raw body."""

    schema_version: int = SCHEMA_VERSION
    boot_id: BootId
    seq: int
    mac: str
    body: msgspec.Raw


class Acked(msgspec.Struct, frozen=True, kw_only=True):
    """All reports of this boot up to `acked_seq` are in the controller's database."""

    schema_version: int = SCHEMA_VERSION
    boot_id: BootId
    acked_seq: int


def body_digest(body: DesiredBody) -> Sha256:
    """Return the sha256 of a Desired's body: it moves only when what the device should run moves."""
    return Sha256(hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest())


NO_BODY = Sha256("0" * 64)
"""The body digest that a device reports before it accepted its first Desired."""
