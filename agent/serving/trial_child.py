"""What happens in the trial child: the same loading as in serving, then the golden check and the clock."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.core.plan import TrialRequest, TrialResult
from agent.serving.lane import Lane
from agent.serving.loading import MANIFEST_FILE, MODEL_FILE, open_litert
from shared import manifest
from shared.errors import LitefleetError, ModelLoadError, UntrustedError
from shared.runtime.golden import check_golden, to_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shared.manifest import ManifestArtifact
    from shared.pipeline import PipelineSpec
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

# Enough for a median; a slow model is judged by what fits in a second.
_RUNS, _RUNS_S = 50, 1.0


def try_release(request: TrialRequest) -> TrialResult:
    """Load, check against the golden cases, and measure."""
    try:
        pipeline, artifact, model = _read(Path(request.folder))
        interpreter = open_litert(model, request.threads)
        # Pipeline and model must fit together as they will in serving.
        Lane(pipeline, interpreter)
        mismatch = check_golden(interpreter, artifact.golden)
        if mismatch:
            return _result(mismatch, artifact)
        p50_ms = _median_ms(interpreter, [to_array(tensor) for tensor in artifact.golden.cases[0].inputs])
    except LitefleetError as exc:
        return TrialResult(passed=False, reason=f"{exc.reason}: {exc}", peak_memory_bytes=_peak_memory_bytes())
    except MemoryError:
        # Nothing more can be relied on, but this much has always fitted so far.
        return TrialResult(passed=False, reason=f"memory_exceeded: {request.max_memory_bytes} bytes are not enough")
    if request.max_latency_ms is not None and p50_ms > request.max_latency_ms:
        return _result(f"too_slow: {p50_ms:.3g} ms, the budget is {request.max_latency_ms:g} ms", artifact, p50_ms)
    return _result("", artifact, p50_ms)


def _read(folder: Path) -> tuple[PipelineSpec, ManifestArtifact, bytes]:
    try:
        described = manifest.decode((folder / MANIFEST_FILE).read_bytes())
        model = (folder / MODEL_FILE).read_bytes()
    except OSError as exc:
        raise ModelLoadError(f"{exc.filename}: {exc.strerror}") from exc
    digest = manifest.digest(model)
    for artifact in described.artifacts:
        if artifact.sha256 == digest:
            return described.pipeline, artifact, model
    raise UntrustedError(f"the manifest knows no artifact with the digest {digest} of {MODEL_FILE}")


def _median_ms(interpreter: Interpreter, inputs: list[Tensor]) -> float:
    """Return the median CPU time of an invocation: a device that is busy serving must not fail a good candidate."""
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < _RUNS and (not took or time.perf_counter() - began < _RUNS_S):
        started = time.thread_time()
        interpreter.run(inputs)
        took.append(time.thread_time() - started)
    return statistics.median(took) * 1000


def _result(reason: str, artifact: ManifestArtifact, p50_ms: float = 0.0) -> TrialResult:
    return TrialResult(
        passed=not reason,
        reason=reason,
        golden_cases=len(artifact.golden.cases),
        latency_p50_ms=p50_ms,
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _peak_memory_bytes() -> int:
    # Not getrusage: its figure begins with that of the process that started this one.
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
