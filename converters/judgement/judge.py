"""The gate: one artifact, made and chosen without a look at the gate split, judged on the whole of it.

Machine-readable refusals: `nan_outputs`, `output_mismatch`, `accuracy_drop`, `agreement`, `confident_agreement`,
`class_drop`, `slice_drop`, `snr`, `kernels_disagree` of an artifact; `size`, `latency`, `runtime` of a hardware class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from converters.judgement import gate, golden_cases, parity, reference, runtimes
from converters.judgement.answers import Answerer, classifies
from shared.conversion import CheckOutcome, ConvertedArtifact, RuntimeVersion
from shared.hardware import Runtime
from shared.manifest import MAX_MANIFEST_BYTES, digest
from shared.runtime import drift
from shared.runtime.interpreter import LiteRtInterpreter, runtime_name_and_version
from shared.runtime.pipeline import CompiledPipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from converters.judgement.answers import Block
    from converters.judgement.reference import Reference
    from converters.judgement.search import Trial
    from converters.judgement.stopwatch import Stopwatch, Timing
    from shared.conversion import ConversionRequest, GateReport, RuntimeCheck
    from shared.hardware import HardwareProfile
    from shared.ids import HardwareProfileId
    from shared.manifest import GoldenCheck, ReferenceHistogram
    from shared.pipeline import PipelineSpec

    Tensor = NDArray[Any]

_USUAL = {Runtime.TFLITE_RUNTIME: "2.14.0"}
"""Taken for a class whose devices have not told their version: the last one that exists."""


_GOLDEN_BYTES = MAX_MANIFEST_BYTES * 9 // 16
"""Of the golden checks in one release, an artifact for each class: as text they take a third more, and the manifest
holds other things, too. Large inputs so have fewer cases."""


_REFERENCE_ITEMS = 2048
"""Of the gate split, evenly over all; from more, a device would learn little with its own window of 512."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Court:
    """What every artifact is judged with."""

    request: ConversionRequest
    pipeline: PipelineSpec
    """What stands before and after an artifact on a device."""
    judged: Reference
    """The gate split, with the source's answers."""
    slices: tuple[str, ...]
    stateful: bool
    stopwatch: Stopwatch

    def judge(self, content: bytes, trial: Trial, look: int) -> ConvertedArtifact:
        """Judge one artifact, the `look`-th (from 0) that was let before the gate, and leave it in the scratch folder.

        Raises:
            ModelLoadError: one kind of kernels cannot run it.
            ModelFailedError: it breaks on an item.
        """
        request, judged = self.request, self.judged
        answered: list[dict[str, float]] = []
        with Answerer(content, self.pipeline, cores=request.threads, stateful=self.stateful) as answerer:
            compared = reference.compare(judged, _noted(answerer.over(judged.samples), answered))
        evidence = judged.evidence(compared.answers, request.budget.confident)
        interpreter = LiteRtInterpreter(content, threads=1)
        pipeline = CompiledPipeline(self.pipeline, interpreter)
        inputs = self._golden_inputs(pipeline, _case_bytes(interpreter))
        golden, disagreement = golden_cases.make(content, inputs, trial.recipe.scheme)
        timing = self.stopwatch.time(content, inputs[0])
        report = self._report(evidence, compared.parity.snr_db, timing, look)
        accuracy = gate.accuracy(evidence)
        refused = (
            parity.refusal(compared.parity, trial.recipe.scheme, accuracy.samples)
            or gate.refusal(report, request.budget, by_agreement=gate.knows_nothing(evidence))
            or disagreement
        )
        if not refused:
            checks = tuple(self._check(content, golden, version) for version in self._versions())
            report = msgspec.structs.replace(report, runtimes=checks)
        return ConvertedArtifact(
            scheme=trial.recipe.scheme,
            path=str(self._written(content, trial)),
            sha256=digest(content),
            length_bytes=len(content),
            inputs=interpreter.inputs,
            outputs=interpreter.outputs,
            accuracy=accuracy,
            max_abs_diff=compared.parity.max_abs_diff,
            latency_ms=timing.median_ms,
            golden=golden,
            references=self._references(pipeline, answered if classifies(interpreter.outputs) else []),
            recipe=trial.recipe,
            report=report,
            refused=refused,
        )

    def _golden_inputs(self, pipeline: CompiledPipeline, case_bytes: int) -> list[Tensor]:
        judged, request = self.judged, self.request
        room = _GOLDEN_BYTES // len(request.profiles) // max(case_bytes, 1)
        chosen = golden_cases.choose(judged.truth, judged.leads, max(1, min(request.golden_cases, room)))
        # What remembers is asked in the order in which it was judged.
        return [pipeline.prepare(judged.samples.item(index)) for index in sorted(chosen)]

    def _references(
        self, pipeline: CompiledPipeline, answered: Sequence[dict[str, float]]
    ) -> tuple[ReferenceHistogram, ...]:
        """Return what devices hold their own requests against, by the code that they count those with."""
        samples = self.judged.samples
        step = max(1, -(-len(samples) // _REFERENCE_ITEMS))
        fed = (pipeline.prepare(samples.item(index)) for index in range(0, len(samples), step))
        return (*drift.references([drift.input_figures(each) for each in fed]), *drift.references(answered))

    def _report(self, evidence: gate.Evidence, snr_db: float | None, timing: Timing, look: int) -> GateReport:
        budget, names = self.request.budget, self.request.pipeline.labels
        measured = gate.report(evidence, names, self.slices, budget.max_drop, gate.chance_of_look(look))
        return msgspec.structs.replace(
            measured,
            snr_db=snr_db,
            latency_p95_ms=timing.p95_ms,
            peak_memory_bytes=timing.peak_memory_bytes,
            measured_on=timing.measured_on,
        )

    def _check(self, content: bytes, golden: GoldenCheck, version: RuntimeVersion) -> RuntimeCheck:
        return runtimes.check(content, golden, version, _root(self.request))

    def _versions(self) -> list[RuntimeVersion]:
        """Return the runtimes that the artifact must answer right on, each once."""
        found: list[RuntimeVersion] = []
        for profile in self.request.profiles:
            found += [version for version in versions_of(profile, self.request.runtimes) if version not in found]
        return found

    def _written(self, content: bytes, trial: Trial) -> Path:
        path = Path(self.request.scratch_path) / f"{trial.recipe.scheme}-{trial.sha256[:12]}.tflite"
        path.write_bytes(content)
        return path


def _noted(blocks: Iterator[Block], figures: list[dict[str, float]]) -> Iterator[Block]:
    """Pass the answers on, and note of each what drift is measured by."""
    for block in blocks:
        figures += [drift.output_figures(scores) for scores in block.scores]
        yield block


def _case_bytes(interpreter: LiteRtInterpreter) -> int:
    tensors = (*interpreter.inputs, *interpreter.outputs)
    return sum(math.prod(abs(size) for size in spec.shape) * np.dtype(spec.dtype).itemsize for spec in tensors)


def versions_of(profile: HardwareProfile, fleet: Sequence[RuntimeVersion]) -> list[RuntimeVersion]:
    """Return which runtimes devices of a class have; the local one, or the usual one, where nobody told."""
    told = [version for version in fleet if version.runtime is profile.runtime]
    if told:
        return told
    runtime, version = runtime_name_and_version()
    # Where this program runs, it is the one of the two that has no usual version.
    usual = version if runtime is profile.runtime else _USUAL.get(profile.runtime, version)
    return [RuntimeVersion(runtime=profile.runtime, version=usual)]


def blocked(request: ConversionRequest) -> dict[HardwareProfileId, str]:
    """Return the classes of hardware that can get nothing, since nothing here shows what their runtime does with it.

    Their devices would be the first to try; where a runtime is known to compute garbage in silence, doubt refuses.
    """
    found = {}
    for profile in request.profiles:
        if runtimes.is_left_to_devices(profile.runtime):
            continue
        for version in versions_of(profile, request.runtimes):
            reason = runtimes.obstacle(version, _root(request))
            if reason:
                found[profile.profile_id] = f"runtime: {version.runtime} {version.version} cannot be asked: {reason}"
    return found


def unfit(made: ConvertedArtifact, profile: HardwareProfile, fleet: Sequence[RuntimeVersion]) -> str:
    """Return "" or why devices of a class may not have an artifact that was judged."""
    wanted = {(version.runtime, version.version) for version in versions_of(profile, fleet)}
    for check in made.report.runtimes:
        fails = check.outcome is CheckOutcome.FAILED or (
            check.outcome is CheckOutcome.NOT_CHECKED and not runtimes.is_left_to_devices(check.runtime)
        )
        if (check.runtime, check.version) in wanted and fails:
            return f"runtime: {check.runtime} {check.version}: {check.reason}"
    if profile.max_size_bytes is not None and made.length_bytes > profile.max_size_bytes:
        return f"size: {made.length_bytes:,} bytes > {profile.max_size_bytes:,}"
    report = made.report
    if profile.max_latency_ms is not None and report.latency_p95_ms > profile.max_latency_ms:
        where = f"on the {report.measured_on}"
        return f"latency: p95 {report.latency_p95_ms:.3g} ms > {profile.max_latency_ms:g} ms ({where})"
    return ""


def _root(request: ConversionRequest) -> Path | None:
    return Path(request.environments_path) if request.environments_path else None
