"""What happens in the trial child: the same loading as in serving, then the golden check and the clock."""

from __future__ import annotations

import io
import statistics
import time
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from agent.core.plan import TrialRequest, TrialResult
from agent.serving.models.lane import Lane
from agent.serving.models.loading import COMPONENTS_DIR, MANIFEST_FILE, MODEL_FILE, open_litert
from agent.serving.requests import ClassifyRequest
from shared import manifest
from shared.errors import LitefleetError, ModelFailedError, ModelLoadError, PipelineError, UntrustedError
from shared.pipeline import OWN_MODEL, takes_bytes, takes_images
from shared.runtime.golden import check_golden, to_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from shared.manifest import ManifestArtifact, ReleaseManifest
    from shared.pipeline import PipelineSpec
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]
    _Opened = tuple[Interpreter, ManifestArtifact]

# Enough for a median; a slow model is judged by what fits in a second.
_RUNS, _RUNS_S = 50, 1.0
_SIDE, _RATE_HZ = 512, 16_000


def try_release(request: TrialRequest) -> TrialResult:
    """Load, check against the golden cases, and measure."""
    try:
        described, artifact, model = _read(Path(request.folder))
        interpreter = open_litert(model, request.threads)
        others = _open_components(Path(request.folder), described, request.threads)
        # Pipeline and models must fit together as they will in serving.
        models = {OWN_MODEL: interpreter} | {name: opened for name, (opened, _) in others.items()}
        lane = Lane(described.pipeline, models)
        mismatch = _mismatch(interpreter, artifact, others) or _rehearsed(lane, described.pipeline)
        if mismatch:
            return _result(mismatch, artifact)
        # As if all of them ran for every item: no branch of the pipeline takes longer.
        p50_ms = sum(_timed_ms(opened, made) for opened, made in ((interpreter, artifact), *others.values()))
    except LitefleetError as exc:
        return TrialResult(passed=False, reason=f"{exc.reason}: {exc}", peak_memory_bytes=_peak_memory_bytes())
    except MemoryError:
        # Nothing more can be relied on, but this much has always fitted so far.
        return TrialResult(passed=False, reason=f"memory_exceeded: {request.max_memory_bytes} bytes are not enough")
    if request.max_latency_ms is not None and p50_ms > request.max_latency_ms:
        return _result(f"too_slow: {p50_ms:.3g} ms, the budget is {request.max_latency_ms:g} ms", artifact, p50_ms)
    return _result("", artifact, p50_ms)


def _read(folder: Path) -> tuple[ReleaseManifest, ManifestArtifact, bytes]:
    described = manifest.decode(_bytes(folder / MANIFEST_FILE))
    model = _bytes(folder / MODEL_FILE)
    return described, _artifact_of(model, described.artifacts, MODEL_FILE), model


def _open_components(folder: Path, described: ReleaseManifest, threads: int) -> dict[str, _Opened]:
    """Open the models of other releases that the pipeline runs, each with what its own release says of it."""
    opened = {}
    for component in described.components:
        path = folder / COMPONENTS_DIR / f"{component.name}.tflite"
        model = _bytes(path)
        opened[component.name] = (open_litert(model, threads), _artifact_of(model, component.artifacts, path.name))
    return opened


def _artifact_of(model: bytes, known: Sequence[ManifestArtifact], name: str) -> ManifestArtifact:
    digest = manifest.digest(model)
    for artifact in known:
        if artifact.sha256 == digest:
            return artifact
    raise UntrustedError(f"the manifest knows no artifact with the digest {digest} of {name}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ModelLoadError(f"{exc.filename}: {exc.strerror}") from exc


def _mismatch(interpreter: Interpreter, artifact: ManifestArtifact, others: Mapping[str, _Opened]) -> str:
    """Return "" when every model answers as it did where it was made, else which does not."""
    mismatch = check_golden(interpreter, artifact.golden)
    for name, (opened, made) in others.items():
        problem = mismatch or check_golden(opened, made.golden)
        mismatch = mismatch or (problem and f"{problem} (component {name})")
    return mismatch


def _rehearsed(lane: Lane, pipeline: PipelineSpec) -> str:
    """Return "" or how the pipeline as a whole breaks on a grey image or on silence, which is nobody's fault else."""
    if not takes_bytes(pipeline):
        return ""
    try:
        lane.run(ClassifyRequest(encoded=_grey_image() if takes_images(pipeline) else _silence()))
    except ModelFailedError as exc:
        return f"{exc.reason}: {exc}"
    except PipelineError:
        # It may take none of this size.
        return ""
    return ""


def _grey_image() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128)).save(out, "PNG")
    return out.getvalue()


def _silence() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE_HZ)
        file.writeframes(bytes(2 * _RATE_HZ))
    return out.getvalue()


def _timed_ms(interpreter: Interpreter, artifact: ManifestArtifact) -> float:
    return _median_ms(interpreter, [to_array(tensor) for tensor in artifact.golden.cases[0].inputs])


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
