"""One conversion from request to result; what happens in which order, and nothing else."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from converters import datasets, doubts, gate, golden_cases, parity, plan, quantize
from converters.failures import ConversionFailedError, SchemeFailedError, UnsupportedOperatorError
from converters.loaders import archive, keras
from shared.conversion import ConversionRequest, ConversionResult, ConvertedArtifact, FailureKind
from shared.errors import ModelFailedError, ModelLoadError
from shared.manifest import Scheme, digest
from shared.runtime.interpreter import LiteRtInterpreter, runtime_name_and_version
from shared.runtime.pipeline import CompiledPipeline, top_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_LATENCY_RUNS = 101
_LATENCY_BUDGET_S = 2.0
"""A model slower than this budget allows is measured fewer times: it varies less, too."""
_LATENCY_LEAST_RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The source and all that artifacts are judged against."""

    source: keras.SourceModel
    doubts: Sequence[str]
    """What the data cannot show, whatever is made."""
    evaluation: datasets.Evaluation
    scores: NDArray[np.float32]
    """`(N, K)` of the source, through the pipeline."""
    calibration_inputs: Sequence[Tensor]
    golden_inputs: Sequence[Tensor]


def convert(request: ConversionRequest, enter: Callable[[str], None]) -> ConversionResult:
    """Carry out `request`; calls `enter` with the name of each step of `plan.stages` as it begins.

    Raises:
        InvalidInputError: the request, the model or the data cannot be used; names what would mend it.
        ConversionFailedError: no artifact came out that may be released.
    """
    plan.check_request(request)
    enter(plan.CHECK_DATA)
    # Everything that can be refused without the framework is refused before it is imported.
    source_path = Path(request.source_path)
    archive.check_archive(source_path)
    calibration = datasets.load_calibration(Path(request.calibration_path))
    evaluation = datasets.load_evaluation(Path(request.evaluation_path))
    enter(plan.LOAD_SOURCE)
    source = keras.load(source_path)
    enter(plan.MEASURE_SOURCE)
    reference = _measure_source(request, source, calibration, evaluation)
    artifacts, failures = _make_all(request, reference, enter)
    warnings = [*reference.doubts]
    for made in artifacts:
        warnings += doubts.of_artifact(made, request.max_accuracy_drop)
    problems = [f"{scheme} could not be made: {problem}" for scheme, problem in failures.items()]
    result = ConversionResult(
        artifacts=tuple(artifacts),
        message="; ".join(problems + [f"warning: {warning}" for warning in warnings]),
        warnings=tuple(warnings),
        parameters=source.parameters,
        source_bytes=source_path.stat().st_size,
        worker=_worker(),
    )
    return _judged(result, failures)


def _measure_source(
    request: ConversionRequest, source: keras.SourceModel, calibration: Tensor, evaluation: datasets.Evaluation
) -> Reference:
    pipeline = CompiledPipeline(request.pipeline, source.interpreter)
    datasets.check_labels(evaluation.labels, source.classes)
    calibration_inputs = datasets.prepare(calibration, pipeline, "calibration.x")
    evaluation_inputs = datasets.prepare(evaluation.items, pipeline, "evaluation.x")
    scores = pipeline.scores(evaluation.items)
    broken = int((~np.isfinite(scores)).any(axis=1).sum())
    if broken:
        raise ConversionFailedError(
            FailureKind.BAD_INPUT,
            f"nan_outputs: the source model answers {broken} of {len(scores)} evaluation items with NaN or infinity",
        )
    said = doubts.of_data(float((top_answers(scores) == evaluation.labels).mean()), evaluation.labels, source.classes)
    # Only full int8 is fitted to the calibration data.
    repeated = doubts.overlap(calibration_inputs, evaluation_inputs) if Scheme.FULL_INT8 in request.schemes else ""
    chosen = golden_cases.choose(evaluation.labels, scores, request.golden_cases)
    return Reference(
        source=source,
        doubts=[repeated, *said] if repeated else said,
        evaluation=evaluation,
        scores=scores,
        calibration_inputs=calibration_inputs,
        golden_inputs=[evaluation_inputs[index] for index in chosen],
    )


def _make_all(
    request: ConversionRequest, reference: Reference, enter: Callable[[str], None]
) -> tuple[list[ConvertedArtifact], dict[Scheme, SchemeFailedError]]:
    artifacts: list[ConvertedArtifact] = []
    failures: dict[Scheme, SchemeFailedError] = {}
    model = keras.with_batch_of_one(reference.source.model)
    for scheme in request.schemes:
        enter(plan.convert_stage(scheme))
        try:
            content = quantize.to_tflite(model, scheme, reference.calibration_inputs)
            enter(plan.measure_stage(scheme))
            artifacts.append(_measured(request, reference, scheme, content))
        except SchemeFailedError as exc:
            failures[scheme] = exc
        except (ModelLoadError, ModelFailedError) as exc:
            failures[scheme] = SchemeFailedError(f"what the converter made does not run: {exc}")
    return artifacts, failures


def _measured(request: ConversionRequest, reference: Reference, scheme: Scheme, content: bytes) -> ConvertedArtifact:
    interpreter = LiteRtInterpreter(content, threads=request.threads)
    scores = CompiledPipeline(request.pipeline, interpreter).scores(reference.evaluation.items)
    compared = parity.compare(reference.scores, scores)
    accuracy = gate.accuracy(reference.scores, scores, reference.evaluation.labels)
    golden, disagreement = golden_cases.make(content, reference.golden_inputs, scheme)
    path = Path(request.scratch_path) / f"{scheme}.tflite"
    path.write_bytes(content)
    return ConvertedArtifact(
        scheme=scheme,
        path=str(path),
        sha256=digest(content),
        length_bytes=len(content),
        inputs=interpreter.inputs,
        outputs=interpreter.outputs,
        accuracy=accuracy,
        max_abs_diff=compared.max_abs_diff,
        latency_ms=_latency_ms(interpreter, reference.golden_inputs[0]),
        golden=golden,
        refused=parity.refusal(compared, scheme, len(scores))
        or gate.refusal(accuracy, request.max_accuracy_drop)
        or disagreement,
    )


def _judged(result: ConversionResult, failures: dict[Scheme, SchemeFailedError]) -> ConversionResult:
    if not result.artifacts:
        unsupported = all(isinstance(failure, UnsupportedOperatorError) for failure in failures.values())
        kind = FailureKind.UNSUPPORTED_OP if unsupported else FailureKind.NOTHING_PASSED
        raise ConversionFailedError(kind, result.message)
    if all(made.refused for made in result.artifacts):
        # The refused ones stay in the result: how far each was off is what mends the model.
        problem = "; ".join(filter(None, [gate.closest(result.artifacts), result.message]))
        return msgspec.structs.replace(result, failure=FailureKind.NOTHING_PASSED, message=problem)
    return result


def _latency_ms(interpreter: LiteRtInterpreter, item: Tensor) -> float:
    batch = item[np.newaxis]
    interpreter.run([batch])
    durations: list[float] = []
    begin = time.perf_counter()
    while len(durations) < _LATENCY_RUNS:
        start = time.perf_counter()
        interpreter.run([batch])
        end = time.perf_counter()
        durations.append(end - start)
        if end - begin > _LATENCY_BUDGET_S and len(durations) >= _LATENCY_LEAST_RUNS:
            break
    return statistics.median(durations) * 1000


def _worker() -> str:
    runtime, version = runtime_name_and_version()
    import tensorflow as tf

    return f"keras {metadata.version('keras')}, tensorflow {tf.__version__}, {runtime} {version}"
