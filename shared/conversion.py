"""The contract between the controller and `python -m converters`: one request on stdin, JSON lines on stdout.

Every line is a `ConversionProgress` or, last, one `ConversionResult`; exit code 0 means that a result was written.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.hardware import HardwareProfile, Runtime
from shared.ids import ConversionId, HardwareProfileId, Sha256
from shared.manifest import Accuracy, GoldenCheck, ReferenceHistogram, Scheme, TensorSpec
from shared.pipeline import PipelineSpec


class SourceFormat(StrEnum):
    """What a ModelVersion may be uploaded as."""

    KERAS = "keras"
    """`.keras`, Keras 3."""
    SAVED_MODEL = "saved_model"
    """A SavedModel folder as one `.zip` or `.tar.gz`."""
    TFJS = "tfjs"
    """A TensorFlow.js layers model: `model.json` and its weight shards as one `.zip` or `.tar.gz`."""
    JAX = "jax"
    """A function as `jax.export(…).serialize()` writes it (StableHLO)."""
    PYTORCH = "pytorch"
    """`.pt2`, as `torch.export.save` writes it."""
    ONNX = "onnx"
    """One `.onnx` file, weights inside."""
    SKLEARN = "sklearn"
    """`.skops`, as `skops.io.dump` writes it; never a pickle."""
    TFLITE = "tflite"


class FailureKind(StrEnum):
    """Why a whole conversion failed."""

    BAD_INPUT = "bad_input"
    UNSUPPORTED_OP = "unsupported_op"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    NOTHING_PASSED = "nothing_passed"


LADDER = (
    Scheme.FULL_INT8,
    Scheme.DYNAMIC_INT8,
    Scheme.WEIGHT_INT8,
    Scheme.MIXED,
    Scheme.FLOAT16,
    Scheme.FLOAT32,
)
"""Those that a search tries when nobody names any, from the smallest on; 4 bits ruin most networks, and int16x8 is slow
wherever it was measured."""


class CalibrationMethod(StrEnum):
    """How the range of an activation is chosen from what calibration data shows of it."""

    MIN_MAX = "min_max"
    PERCENTILE = "percentile"
    MSE = "mse"
    KL = "kl"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How one artifact is made of the float model; with the same input, data and libraries it gives the same bytes."""

    scheme: Scheme
    calibration: CalibrationMethod | None = None
    """Only of schemes with fixed activation ranges (full int8, int16x8); None: the method that fits most models."""
    integer_io: bool = False
    """Inputs and outputs as integers, too, of such a scheme; else float32."""
    kept_float: tuple[str, ...] = ()
    """Output tensors of the operators that stay float (float16 weights under MIXED)."""
    equalise: bool = False
    """Cross-layer equalisation before quantizing."""
    correct_bias: bool = False
    """Mean errors of outputs are taken back in the biases."""
    per_tensor: bool = False
    """One scale for a whole weight tensor: smaller, and it breaks many networks."""
    image_input: bool = False
    """The input is a uint8 image; the pipeline's normalisation is folded into the graph."""


class Objective(StrEnum):
    """What is best among those that pass."""

    SMALLEST = "smallest"
    FASTEST = "fastest"


class RuntimeVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One interpreter that some device of the fleet has."""

    runtime: Runtime
    version: str


class AccuracyBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact may lose against its source. Shares are 0..1; a bound is one-sided 95 %."""

    max_drop: float = 0.01
    """Largest accuracy drop; the upper bound of the paired difference must keep it."""
    max_class_drop: float | None = None
    """Largest drop of any class with at least `min_class_samples`; None: not judged."""
    max_slice_drop: float | None = None
    min_class_samples: int = 30
    min_snr_db: float | None = None
    """Least signal-to-noise ratio of the outputs; None: only a broken artifact's is refused."""
    min_agreement: float = 0.98
    """Least share of the same top answers; judged where there are no labels."""
    min_confident_agreement: float = 0.99
    """The same among samples of which the source is sure."""
    confident: float = 0.5
    """The source is sure of an answer with at least this probability."""


class ConversionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to convert, with what data, within which limits."""

    schema_version: int = 1
    conversion_id: ConversionId
    source_path: str
    source_name: str = ""
    """What people call the file, for the model card; empty: its name at `source_path`."""
    source_format: SourceFormat
    scratch_path: str
    """An empty folder; the artifacts are left there."""
    dataset_path: str
    """A folder with `dataset.json` and its shards."""
    pipeline: PipelineSpec
    schemes: tuple[Scheme, ...] = LADDER
    profiles: tuple[HardwareProfile, ...]
    golden_cases: int = 8
    threads: int = 2
    budget: AccuracyBudget = AccuracyBudget()
    objective: Objective = Objective.SMALLEST
    runtimes: tuple[RuntimeVersion, ...] = ()
    """Interpreters in the fleet: an artifact must answer right on each of its profile's. None: the local one."""
    batch: int | None = 1
    """Fixed batch of the artifacts; None leaves it free (browsers and accelerators then refuse them)."""
    image_input: bool = False
    """Fold the pipeline's normalisation into the graph, so that the model takes uint8 images."""
    cache_path: str = ""
    """A folder where float models and candidates are kept by content, so that a conversion cut short goes on; empty: no
    cache."""
    environments_path: str = ""
    """Where the front ends' environments are installed; empty: the user's own folder."""
    max_search_s: float = 1800.0
    """After so long, no further candidate is tried: the best of those that were is judged, and a warning says so."""


class ConversionProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Where the work stands; `fraction` 0..1 never falls."""

    step: str
    fraction: float


class PairedDrop(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy lost against the source on the same samples."""

    samples: int
    drop: float
    bound: float
    """One-sided upper bound of `drop`, 95 % over all looks that were taken at the gate: each look bounds it wider."""
    discordant: int
    """Samples on which exactly one of both is right."""
    samples_needed: int
    """Samples that would certify the margin at this rate of discordance; 0 where no number would."""


class GroupAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy within one class or slice."""

    name: str
    samples: int
    source: float
    artifact: float


class ChangedSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample of the gate split that artifact and source answer differently."""

    index: int
    label: int | None
    source: int
    artifact: int


class CheckOutcome(StrEnum):
    """Of a check that may be impossible here."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


class RuntimeCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an artifact answers right on one runtime version."""

    runtime: Runtime
    version: str
    outcome: CheckOutcome
    reason: str = ""


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that the gate measured of one artifact."""

    drop: PairedDrop | None = None
    """None where the data has no labels."""
    classes: tuple[GroupAccuracy, ...] = ()
    slices: tuple[GroupAccuracy, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    """`confusion[label][answer]` of the artifact; empty with more than 100 classes."""
    changed: tuple[ChangedSample, ...] = ()
    """At most 64."""
    agreement: float = 1.0
    confident_agreement: float = 1.0
    confident_samples: int = 0
    snr_db: float | None = None
    """None: no difference at all."""
    latency_p95_ms: float = 0.0
    peak_memory_bytes: int = 0
    measured_on: str = ""
    """`converter` or the device that latency and memory were measured on."""
    runtimes: tuple[RuntimeCheck, ...] = ()


class ConvertedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """One scheme's outcome. `refused` is empty for an artifact that may be released."""

    scheme: Scheme
    path: str
    sha256: Sha256
    length_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    accuracy: Accuracy
    max_abs_diff: float | None
    """Largest difference of outputs from the source model over the evaluation data; None where an answer was NaN or
    infinite, which JSON cannot say."""
    latency_ms: float
    """Median of one invocation on the machine that converted; a ratio's denominator, not a promise."""
    golden: GoldenCheck
    references: tuple[ReferenceHistogram, ...] = ()
    """How inputs and answers of the evaluation data are distributed: what drift is measured against on devices."""
    recipe: Recipe | None = None
    report: GateReport = GateReport()
    refused_for: dict[HardwareProfileId, str] = {}
    """Profiles that may not have it although nothing else speaks against it, and why: size, latency, runtime."""
    refused: str = ""
    """Machine-readable word and detail: `accuracy_drop: 0.031 > 0.010`."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe that was tried on the search split: a row of the Pareto table."""

    recipe: Recipe
    sha256: Sha256
    length_bytes: int
    latency_ms: float
    agreement: float
    accuracy: float | None
    snr_db: float | None
    pareto: bool
    """No other candidate is smaller and loses less."""
    outcome: str
    """`chosen: pi5, gateway`, `gate: …`, `search: …`, `failed: …`; never empty."""


class ConversionResult(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """The outcome: artifacts (passing and refused), or why there are none."""

    failure: FailureKind | None = None
    message: str = ""
    artifacts: tuple[ConvertedArtifact, ...] = ()
    parameters: int = 0
    source_bytes: int = 0
    warnings: tuple[str, ...] = ()
    """What the figures do not show, although nothing was refused: too few samples for the margin, and the like. Also
    part of `message`, for readers who know no warnings."""
    worker: str = ""
    """Framework and version that converted, for provenance."""
    candidates: tuple[Candidate, ...] = ()
    """Everything that was tried, in order; also what failed."""
    card_path: str = ""
    """The model card as JSON (shared/card.py), in the scratch folder; beside it `card.html`."""
    operators_before: dict[str, int] = {}
    operators_after: dict[str, int] = {}


ConversionLine = ConversionProgress | ConversionResult
