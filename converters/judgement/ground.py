"""What a conversion stands on: the data, the float model, and the source's own answers; all of it proved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from converters.data import datasets
from converters.failures import ConversionFailedError, SchemeFailedError
from converters.frontends.origin import Float, Origin, gather
from converters.judgement import gate
from converters.judgement.answers import classifies
from converters.judgement.cache import Cache
from converters.judgement.judge import blocked
from converters.judgement.reference import Reference, refer
from converters.plan import Stage
from shared.conversion import AccuracyBudget, ConversionRequest, FailureKind, SourceFormat
from shared.dataset import Split
from shared.errors import InvalidInputError
from shared.pipeline import Normalise, PipelineSpec
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converters.data.datasets import Dataset
    from shared.ids import HardwareProfileId

_UNJUDGED_SNR_DB = 20.0
"""Least signal-to-noise ratio where neither labels nor classes say what an answer is worth: noise of a tenth."""


class Tell(Protocol):
    """Hears of progress."""

    def __call__(self, stage: Stage, share: float = 0.0, detail: str = "") -> None:
        """A stage is done by `share` (0..1), and `detail` is what it does now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The source, and the data with its answers: what everything else stands on."""

    request: ConversionRequest
    data: Dataset
    made: Float
    model: bytes
    """The float model that artifacts are made of: with the normalisation inside, where images are to go in."""
    pipeline: PipelineSpec
    """What stands before and after an artifact on a device."""
    searched: Reference
    judged: Reference
    budget: AccuracyBudget
    """The request's, as far as it makes sense for this model; without classes, noise alone is judged."""
    kept: Cache
    program: str
    """Names the code and libraries that make and measure."""
    is_finished: bool
    """The source is a quantized `.tflite` already: there is nothing to search, and nothing that it could lose."""
    blocked: Mapping[HardwareProfileId, str]
    """Classes of hardware that can get nothing here, and why."""


def prepare(request: ConversionRequest, scratch: Path, tell: Tell) -> Ground:
    """Do all that comes before the search, and end the front end after it.

    Raises:
        InvalidInputError: the request, the model or the data cannot be used; names what would mend it.
        ConversionFailedError: there is no float model, or it does not answer as its source.
    """
    tell(Stage.CHECK_DATA)
    # Everything that can be refused without the framework is refused before it starts.
    if not Path(request.source_path).is_file():
        raise InvalidInputError(field="source_path", problem="no such file")
    barred = blocked(request)
    if len(barred) == len(request.profiles):
        raise InvalidInputError(field="environment", problem="; ".join(dict.fromkeys(barred.values())))
    data = datasets.open_dataset(request, scratch / "data")
    _check_groups(request, data)
    if request.source_format is not SourceFormat.TFLITE:
        _check_enough(request, data)
    kept = Cache(Path(request.cache_path) if request.cache_path else scratch / "kept")
    with Origin(request, kept, scratch / "source", lambda step: tell(Stage.LOAD_SOURCE, 0.5, step)) as origin:
        tell(Stage.LOAD_SOURCE)
        made = origin.load()
        if not made.facts.quantized:
            _check_enough(request, data)
        pipeline = CompiledPipeline(request.pipeline, LiteRtInterpreter(made.model, threads=1))
        for samples in data.splits.values():
            datasets.check_items(samples, pipeline)
        references = {}
        for share, split in ((0.0, Split.SEARCH), (0.3, Split.GATE)):
            tell(Stage.ASK_SOURCE, share, split)
            samples = data.splits[split]
            outputs = gather(origin.answers(made, samples), len(samples), scratch / f"answers-{split}")
            references[split] = refer(samples, outputs, pipeline)
            datasets.check_labels(samples, references[split].classes)
        program = origin.program
    judged = references[Split.GATE]
    model, served = _with_image_input(request, made)
    return Ground(
        request=request,
        data=data,
        made=made,
        model=model,
        pipeline=served,
        searched=references[Split.SEARCH],
        judged=judged,
        budget=_budget(request, made, judged),
        kept=kept,
        program=program,
        is_finished=made.facts.quantized,
        blocked=barred,
    )


def _check_groups(request: ConversionRequest, data: Dataset) -> None:
    """Refuse a floor for classes or slices that the gate split does not tell apart: it would hold of anything."""
    samples, budget = data.splits[Split.GATE], request.budget
    if budget.max_class_drop is not None and samples.labels is None:
        remedy = "add labels y to every split, or leave budget.max_class_drop out"
        raise InvalidInputError(field=f"{samples.field}.y", problem="is missing: no class can be judged", remedy=remedy)
    if budget.max_slice_drop is not None and samples.slices is None:
        remedy = "add slice numbers, and their names in dataset.json, or leave budget.max_slice_drop out"
        raise InvalidInputError(
            field=f"{samples.field}.slice", problem="is missing: no slice can be judged", remedy=remedy
        )


def _check_enough(request: ConversionRequest, data: Dataset) -> None:
    """Refuse a gate split on which not even an artifact without one wrong answer could be certified."""
    samples, margin = data.splits[Split.GATE], request.budget.max_drop
    if samples.labels is None:
        return
    chance = gate.chance_of_look(0)
    bound = gate.drop_bound(len(samples), 0, 0, chance)
    if bound > margin:
        needed = gate.samples_needed(len(samples), 0, 0, margin, chance)
        raise InvalidInputError(
            field=f"{samples.field}.y",
            problem=f"{len(samples):,} samples cannot show that less than {margin:.2%} of accuracy is lost",
            remedy=f"{needed:,} are needed at least, or a budget.max_drop of {bound:.3f}" if needed else "allow a drop",
        )


def _budget(request: ConversionRequest, made: Float, judged: Reference) -> AccuracyBudget:
    budget = request.budget
    if made.facts.quantized:
        # No number of samples shows that a file loses nothing against itself, and none is needed.
        budget = msgspec.structs.replace(budget, max_drop=1.0)
    # One score without labels has no second to be mistaken for, and boxes or waves have no highest one that counts.
    if judged.samples.labels is not None or (classifies(made.facts.outputs) and judged.classes > 1):
        return budget
    floor_db = _UNJUDGED_SNR_DB if budget.min_snr_db is None else budget.min_snr_db
    return msgspec.structs.replace(budget, min_agreement=0.0, min_confident_agreement=0.0, min_snr_db=floor_db)


def _with_image_input(request: ConversionRequest, made: Float) -> tuple[bytes, PipelineSpec]:
    if not request.image_input or made.facts.quantized:
        return made.model, request.pipeline
    from converters.quantization import image_input

    step = next((step for step in request.pipeline.steps if isinstance(step, Normalise)), Normalise())
    left = tuple(step for step in request.pipeline.steps if not isinstance(step, Normalise))
    try:
        model = image_input.fold(made.model, scale=step.scale, offset=step.offset)
    except SchemeFailedError as exc:
        raise ConversionFailedError(FailureKind.BAD_INPUT, f"image_input: {exc}") from exc
    return model, msgspec.structs.replace(request.pipeline, steps=left)
