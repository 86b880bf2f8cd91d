"""The contract between the controller and `python -m converters`: one request on stdin, JSON lines on stdout.

Every line is a `ConversionProgress` or, last, one `ConversionResult`; exit code 0 means that a result was written.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.hardware import HardwareProfile
from shared.ids import ConversionId, Sha256
from shared.manifest import Accuracy, GoldenCheck, Scheme, TensorSpec
from shared.pipeline import PipelineSpec


class SourceFormat(StrEnum):
    """What a ModelVersion may be uploaded as."""

    KERAS = "keras"


class FailureKind(StrEnum):
    """Why a whole conversion failed."""

    BAD_INPUT = "bad_input"
    UNSUPPORTED_OP = "unsupported_op"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    NOTHING_PASSED = "nothing_passed"


class ConversionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to convert, with what data, within which limits."""

    schema_version: int = 1
    conversion_id: ConversionId
    source_path: str
    source_format: SourceFormat
    scratch_path: str
    """An empty folder; the artifacts are left there."""
    calibration_path: str
    """`.npz` with `x`: `(N, …)` items as they are after image decoding, raw."""
    evaluation_path: str
    """`.npz` with `x` and integer labels `y (N,)`."""
    pipeline: PipelineSpec
    schemes: tuple[Scheme, ...] = tuple(Scheme)
    profiles: tuple[HardwareProfile, ...]
    max_accuracy_drop: float = 0.01
    """Largest tolerated loss of accuracy against the source (0.01 = 1 percentage point)."""
    golden_cases: int = 8
    threads: int = 2


class ConversionProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Where the work stands; `fraction` 0..1 never falls."""

    step: str
    fraction: float


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
    refused: str = ""
    """Machine-readable word and detail: `accuracy_drop: 0.031 > 0.010`."""


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


ConversionLine = ConversionProgress | ConversionResult
