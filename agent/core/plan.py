"""What the control process tells the serving process, and what it hears back.

Control sends a `Plan` (the whole of it, each time); serving converges on it and answers `Applied`. There are no load or
swap commands. `BootFile` is the plan on disk, from which serving starts without control.
"""

from __future__ import annotations

import msgspec

from shared.applications import ApplicationGrant
from shared.broker_inference import RequestKind
from shared.ids import BootId, ModelName, ReleaseId, Sha256
from shared.probe import ModelProbe
from shared.request_log import LogWish
from shared.sketches import Sketch
from shared.traffic import TrafficRule
from shared.wire import Figures, PairedCounts


class ComponentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A further model that a release's pipeline runs: `components/{name}.tflite` in the release's folder."""

    name: str
    artifact_sha256: Sha256


class SlotSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A release to hold in memory."""

    model: ModelName
    """The line: `digits`, or `digits@blue` for a variant of it."""
    release_id: ReleaseId
    version_number: int
    folder: str
    """Absolute path of the release's folder: `manifest.json` and `model.tflite`, both verified before."""
    artifact_sha256: Sha256
    manifest_sha256: Sha256
    threads: int = 1
    components: tuple[ComponentSpec, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers for a model. Without a primary the model answers 503 with `unavailable_reason`."""

    model: ModelName
    primary: ReleaseId | None
    shadow: ReleaseId | None = None
    """Runs on a copy of the same requests after the reply is written; compared, never answered from."""
    candidate: ReleaseId | None = None
    """Which of the two is the candidate of the comparison, when there is one."""
    max_latency_ratio: float = 2.0
    """A pair counts as `slower` when candidate time > this × stable time."""
    canary_share: float = 1.0
    """Share (0..1) of requests that a candidate which is primary answers; its shadow answers the others."""
    unavailable_reason: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that serving should hold and route."""

    serial: int
    slots: tuple[SlotSpec, ...] = ()
    routes: tuple[Route, ...] = ()
    traffic: tuple[TrafficRule, ...] = ()
    """Over the routes of a model and its variants."""
    applications: tuple[ApplicationGrant, ...] = ()
    request_logs: tuple[LogWish, ...] = ()


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one slot of the plan."""

    model: ModelName
    release_id: ReleaseId
    loaded: bool
    """It will answer, though it may be asleep."""
    error: str = ""
    asleep: str = ""
    """Why it is not in memory until somebody asks for it: `unloaded_idle` or `evicted`."""
    probe: ModelProbe | None = None


class Applied(msgspec.Struct, frozen=True, kw_only=True, tag="applied"):
    """Serving has converged on the plan of this serial, as far as it can."""

    serial: int
    boot_id: BootId
    """Of this life of the serving process: its counters start at zero with it."""
    slots: tuple[SlotState, ...] = ()


class SeriesStats(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative measurements of one release since serving started; names are rows of `shared.metrics`."""

    model: ModelName
    release_id: ReleaseId
    counts: dict[str, int] = {}
    sketches: dict[str, Sketch] = {}


class PairStats(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative comparison of two releases on the same requests since serving started."""

    model: ModelName
    """The line whose candidate is compared with its stable; of a rule's shadow, the shadow's own line."""
    candidate: ReleaseId
    stable: ReleaseId
    """What the other is compared with: of a rule's shadow, the release that answered."""
    counts: PairedCounts
    by_rule: bool = False
    """The shadow of a traffic rule, which no rollout hangs on, and no candidate's evidence."""
    distances: tuple[int, ...] = ()
    """How far apart the answers were: a histogram over `agent.serving.traffic.comparison.DISTANCES`."""
    ratios: tuple[int, ...] = ()
    """How many times as long the candidate took: a histogram over `agent.serving.traffic.comparison.RATIOS`."""


class Stats(msgspec.Struct, frozen=True, kw_only=True, tag="stats"):
    """Answer to `GetStats`: all cumulative, so that a lost answer costs nothing."""

    boot_id: BootId
    series: tuple[SeriesStats, ...] = ()
    pairs: tuple[PairStats, ...] = ()


class SetPlan(msgspec.Struct, frozen=True, kw_only=True, tag="set_plan"):
    """Control → serving: converge on this."""

    plan: Plan


class GetStats(msgspec.Struct, frozen=True, kw_only=True, tag="get_stats"):
    """Control → serving: tell what you measured."""


class AskInference(msgspec.Struct, frozen=True, kw_only=True, tag="ask_inference"):
    """Control → serving: answer a request that came by the broker, of an application which that has let in."""

    application: str
    model: ModelName
    version: str = ""
    """Empty: whichever answers."""
    kind: RequestKind = RequestKind.INFER
    key: str = ""
    """Whatever the application wants answered by the same variant each time."""
    body: bytes
    header_bytes: int | None = None
    """How much of the body is JSON; the rest of it is tensors. None: all of it."""
    timeout_s: float
    """After so long nobody waits for the answer."""


class GetSamples(msgspec.Struct, frozen=True, kw_only=True, tag="get_samples"):
    """One serving process → another behind the same port: tell what `/metrics` should show."""


class Samples(msgspec.Struct, frozen=True, kw_only=True, tag="samples"):
    """The answer: a list of `agent.serving.protocols.exposition.Sample`, which control has no use for, as it stands."""

    listed: msgspec.Raw


class InferenceAnswered(msgspec.Struct, frozen=True, kw_only=True, tag="inference_answered"):
    """Serving's answer, or its refusal as a problem in JSON."""

    status: int
    """As HTTP has it."""
    body: bytes
    header_bytes: int | None = None
    retry_after_s: float | None = None


ToServing = SetPlan | GetStats | AskInference | GetSamples
FromServing = Applied | Stats | InferenceAnswered | Samples


class BootFile(msgspec.Struct, frozen=True, kw_only=True):
    """`boot.json`: written atomically by control after each commit.

    Serving decrements `tries_left` and fsyncs before it loads `plan` when that holds a candidate; at zero it loads
    `fallback`, so that a crash loop falls back to stable by itself.
    """

    plan: Plan
    fallback: Plan
    tries_left: int


class TrialRequest(msgspec.Struct, frozen=True, kw_only=True):
    """stdin of the trial child: try the release in this folder, then die."""

    folder: str
    threads: int = 1
    max_memory_bytes: int
    deadline_s: float
    max_latency_ms: float | None = None


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """stdout of the trial child. No result at all (crash, deadline, memory) is a failed trial."""

    passed: bool
    reason: str = ""
    """`golden_mismatch: case 3 output 0 differs by 0.4`, `model_load_failed: …`, `too_slow: …`."""
    golden_cases: int = 0
    latency_p50_ms: float = 0.0
    peak_memory_bytes: int = 0


class MeasureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """stdin of the measuring child: time the artifact at this path, then die."""

    path: str
    sha256: Sha256
    threads: int = 1
    max_memory_bytes: int
    deadline_s: float


class MeasureResult(msgspec.Struct, frozen=True, kw_only=True):
    """stdout of the measuring child."""

    figures: Figures | None = None
    reason: str = ""
    """Why there are none."""
