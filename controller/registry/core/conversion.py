"""What becomes of a conversion when its worker ends, or the controller ended before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.registry.core.types import ArtifactSummary, ConversionState
from shared.conversion import FailureKind

if TYPE_CHECKING:
    from shared.conversion import ConversionResult, ConvertedArtifact

ENDED = frozenset({ConversionState.SUCCEEDED, ConversionState.FAILED, ConversionState.CANCELED})
"""Nothing changes a conversion that is in one of these."""
AGAIN = frozenset({ConversionState.FAILED, ConversionState.CANCELED})
"""The same order after one of these is a new conversion."""
MAX_ATTEMPTS = 3
"""A conversion that ended with its controller this often is held to be the cause of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a conversion goes on or ended."""

    state: ConversionState
    failure: FailureKind | None = None
    message: str = ""


def judge(result: ConversionResult) -> Outcome:
    """Return how a conversion ended. A result without a passing artifact never counts as a success."""
    if result.failure is not None:
        return Outcome(state=ConversionState.FAILED, failure=result.failure, message=result.message)
    if all(artifact.refused for artifact in result.artifacts):
        refusals = "; ".join(f"{artifact.scheme} {artifact.refused}" for artifact in result.artifacts)
        message = result.message or refusals or "the worker made no artifact"
        return Outcome(state=ConversionState.FAILED, failure=FailureKind.NOTHING_PASSED, message=message)
    return Outcome(state=ConversionState.SUCCEEDED, message=result.message)


def summary(artifact: ConvertedArtifact) -> ArtifactSummary:
    """Return what is shown of an artifact: all but its golden cases and the samples it changed."""
    return ArtifactSummary(
        scheme=artifact.scheme,
        sha256=artifact.sha256,
        length_bytes=artifact.length_bytes,
        accuracy=artifact.accuracy,
        recipe=artifact.recipe,
        latency_ms=artifact.latency_ms,
        latency_p95_ms=artifact.report.latency_p95_ms,
        peak_memory_bytes=artifact.report.peak_memory_bytes,
        drop=artifact.report.drop,
        snr_db=artifact.report.snr_db,
        runtimes=artifact.report.runtimes,
        refused_for=artifact.refused_for,
        refused=artifact.refused,
    )


def storable(text: str) -> str:
    """Return what a conversion program said without what PostgreSQL stores in no text: a crash may print anything."""
    return text.replace("\0", "")


def after_restart(attempts: int) -> Outcome:
    """Return what becomes of a conversion that was running when the controller ended."""
    if attempts < MAX_ATTEMPTS:
        return Outcome(state=ConversionState.QUEUED, message=f"started again after a restart (attempt {attempts + 1})")
    return Outcome(
        state=ConversionState.FAILED,
        failure=FailureKind.CRASHED,
        message=f"the controller or its worker ended during each of {attempts} attempts",
    )
