"""What the API shows, as its callers read it: tolerant of fields that they do not know, silent on those not sent."""

from __future__ import annotations

from datetime import datetime

import msgspec

from controller.traffic_views import ProbeView, RuleView
from shared.wire import DesiredModel


class Page(msgspec.Struct, frozen=True):
    """One page of a list; `next` is the cursor of the following page."""

    items: list[msgspec.Raw]
    next: str | None = None


class RequestView(msgspec.Struct, frozen=True):
    """One request that a device wrote down."""

    event_id: str
    event: msgspec.Raw
    """A CloudEvent."""
    received_at: datetime | None = None


class DriftView(msgspec.Struct, frozen=True):
    """How often a device looked at one figure of a release in the last day, and how often it found drift."""

    model: str
    release_id: str
    figure: str
    looks: int
    alarms: int


class UploadView(msgspec.Struct, frozen=True):
    """How much of a file has arrived."""

    sha256: str
    size_bytes: int
    offset_bytes: int
    complete: bool


class ModelView(msgspec.Struct, frozen=True):
    """A named line of work."""

    model: str
    versions: int = 0
    created_at: datetime | None = None


class VersionView(msgspec.Struct, frozen=True):
    """One uploaded source of a model."""

    model: str
    number: int
    sha256: str
    size_bytes: int
    filename: str
    source_format: str
    created_at: datetime | None = None


class DatasetView(msgspec.Struct, frozen=True):
    """Data to calibrate, to search and to judge with."""

    sha256: str
    name: str
    licence: str = ""
    kind: str = ""
    shards: int = 0
    size_bytes: int = 0
    created_at: datetime | None = None


class AccuracyView(msgspec.Struct, frozen=True):
    """Shares (0..1) of right answers, and of equal ones."""

    samples: int = 0
    source: float = 0.0
    artifact: float = 0.0
    agreement: float = 0.0
    labelled: bool = True


class DropView(msgspec.Struct, frozen=True):
    """Accuracy lost against the source on the same samples; `bound` holds with 95 %."""

    samples: int = 0
    drop: float = 0.0
    bound: float = 0.0
    samples_needed: int = 0


class RecipeView(msgspec.Struct, frozen=True):
    """How an artifact was made."""

    scheme: str
    calibration: str | None = None
    integer_io: bool = False
    kept_float: list[str] = []
    equalise: bool = False
    correct_bias: bool = False
    per_tensor: bool = False
    image_input: bool = False


class CandidateView(msgspec.Struct, frozen=True):
    """One recipe that was tried: a row of the Pareto table."""

    recipe: RecipeView
    sha256: str
    length_bytes: int
    latency_ms: float
    agreement: float
    accuracy: float | None = None
    snr_db: float | None = None
    pareto: bool = False
    outcome: str = ""


class FiguresView(msgspec.Struct, frozen=True):
    """What one invocation takes on a device: processor time, and elapsed time beside whatever else ran there."""

    runs: int
    cpu_p50_ms: float
    cpu_p95_ms: float
    wall_p50_ms: float
    wall_p95_ms: float
    peak_memory_bytes: int


class MeasurementView(msgspec.Struct, frozen=True):
    """One artifact, timed on one device."""

    sha256: str
    device_id: str
    state: str
    reason: str = ""
    figures: FiguresView | None = None
    runtime: str = ""
    runtime_version: str = ""
    ordered_at: datetime | None = None
    ended_at: datetime | None = None


class Measured(msgspec.Struct, frozen=True):
    """All that was measured of a conversion."""

    items: list[MeasurementView]


class BudgetView(msgspec.Struct, frozen=True):
    """Whether an artifact keeps a profile's budget for latency, and who says so."""

    profile_id: str
    max_latency_ms: float
    latency_p95_ms: float
    measured_on: str
    kept: bool


class ArtifactView(msgspec.Struct, frozen=True):
    """One converted file."""

    scheme: str
    sha256: str
    length_bytes: int
    accuracy: AccuracyView = AccuracyView()
    recipe: RecipeView | None = None
    latency_ms: float = 0.0
    latency_p95_ms: float = 0.0
    measurements: list[MeasurementView] = []
    budgets: list[BudgetView] = []
    drop: DropView | None = None
    snr_db: float | None = None
    refused: str = ""
    refused_for: dict[str, str] = {}
    profiles: list[str] = []


class ConversionView(msgspec.Struct, frozen=True):
    """How a conversion stands."""

    conversion_id: str
    model: str
    version_number: int
    state: str
    step: str = ""
    fraction: float = 0.0
    failure: str | None = None
    message: str = ""
    artifacts: list[ArtifactView] = []
    candidates: list[CandidateView] = []
    card: bool = False


class ComponentView(msgspec.Struct, frozen=True):
    """A model of another release that a release runs too."""

    name: str
    model: str
    release_id: str


class ConsentView(msgspec.Struct, frozen=True):
    """What of the requests may be written down."""

    inputs: bool = False
    outputs: bool = False
    upstream: bool = False
    redact: tuple[str, ...] = ()
    """Names of tensors whose values are never written."""


class ReleaseView(msgspec.Struct, frozen=True):
    """A signed release."""

    release_id: str
    model: str
    version_number: int
    release_counter: int
    manifest_sha256: str
    artifacts: list[ArtifactView] = []
    components: list[ComponentView] = []
    log_consent: ConsentView | None = None
    created_at: datetime | None = None

    @property
    def name(self) -> str:
        """What people call it: `digits/3`."""
        return f"{self.model}/{self.version_number}"


class ExportView(msgspec.Struct, frozen=True):
    """A release for one class of hardware, with all that vouches for it."""

    wanted: DesiredModel
    root_sha256: str
    documents: dict[str, str]


class InviteView(msgspec.Struct, frozen=True):
    """What a device needs to enrol, once. Holds a secret until then."""

    device_id: str
    token: str
    expires_at: datetime
    controller_url: str
    ca_pem: str


class StatusView(msgspec.Struct, frozen=True):
    """The controller itself."""

    installation_id: str
    lab_mode: bool
    broker_connected: bool
    devices: int
    version: str


class SlotView(msgspec.Struct, frozen=True):
    """What a device holds for one variant of a model."""

    model: str
    variant: str = "main"
    stable: str | None = None
    candidate: str | None = None
    unavailable_reason: str = ""
    probe: ProbeView | None = None


class DeviceView(msgspec.Struct, frozen=True):
    """One device, desired beside reported."""

    device_id: str
    site: str
    labels: dict[str, str] = {}
    enrolled: bool = False
    removed: bool = False
    last_seen_at: datetime | None = None
    architecture: str | None = None
    generation: int = 0
    observed_generation: int = 0
    desired: dict[str, str] = {}
    """Model → release id; a variant's as `model@variant`."""
    traffic: list[RuleView] = []
    slots: list[SlotView] = []
    desired_refused: str = ""
    """Why the device refused the newest order that it was given."""
    explanation: str = ""


class GateView(msgspec.Struct, frozen=True):
    """Whether a gate can decide in a wave, and why not."""

    gate: str
    can_decide: bool
    why: str = ""


class WaveView(msgspec.Struct, frozen=True):
    """One wave: planned, and how far it is; the first has index 1."""

    index: int
    size: str = ""
    devices: int = 0
    state: str = ""
    verdict: str = ""
    assigned: int = 0
    activated: int = 0
    waiting: int = 0
    queued: int = 0
    in_progress: int = 0
    undecided: int = 0
    succeeded: int = 0
    failed: int = 0
    excused: int = 0
    unreachable: int = 0
    gates: list[GateView] = []
    device_ids: list[str] = []
    """Who would be in it, the first ones; only in a plan."""


class PlanView(msgspec.Struct, frozen=True):
    """A rollout that was not started."""

    cohort: str
    devices: int
    waves: list[WaveView]
    release_id: str = ""
    model: str = ""
    not_enrolled: int = 0
    """Devices of the cohort that have not enrolled: a wave that starts later takes those that have by then."""


class RolloutView(msgspec.Struct, frozen=True):
    """How a rollout stands, and why it is not further."""

    rollout_id: str
    release_id: str
    model: str
    cohort: str
    state: str
    paused_for: str = ""
    reason: str = ""
    explanation: str = ""
    on_failure: str = ""
    devices_exposed: int = 0
    devices_returning: int = 0
    fetched_bytes: int = 0
    full_bytes: int = 0
    waves: list[WaveView] = []
    created_at: datetime | None = None


class AssignmentView(msgspec.Struct, frozen=True):
    """One device's share of a rollout."""

    device_id: str
    wave: int
    status: str
    phase: str | None = None
    activated: bool = False
    unreachable: bool = False
    going_back: bool = False
    reason: str = ""
    pairs: int = 0
    flips: int = 0
    changed_at: datetime | None = None


class DecisionView(msgspec.Struct, frozen=True):
    """One decision, with its reason."""

    at: datetime
    reason: str
    explanation: str = ""
