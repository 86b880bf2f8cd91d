"""One conversion from request to result; what happens in which order, and nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from converters import plan
from converters.card import cards
from converters.failures import ConversionFailedError
from converters.judgement import choosing, doubts, gate, search
from converters.judgement.bench import Bench, Shop
from converters.judgement.ground import prepare
from converters.judgement.judge import Court
from converters.judgement.search import Question, Trial
from converters.judgement.stopwatch import OwnStopwatch
from converters.plan import Stage
from shared.conversion import ConversionRequest, ConversionResult, FailureKind, Recipe
from shared.dataset import Split
from shared.manifest import Scheme
from shared.runtime.interpreter import runtime_name_and_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converters.judgement.choosing import Choice
    from converters.judgement.ground import Ground, Tell
    from shared.conversion import ConvertedArtifact

_SEARCH_PATIENCE_S, _GATE_PATIENCE_S = 0.5, 2.0
"""A model slower than this allows is timed fewer times."""
_USUAL_CANDIDATES = 12
"""Of a search, for its progress alone."""


def convert(request: ConversionRequest, tell: Tell) -> ConversionResult:
    """Carry out `request`, and tell of the progress.

    Raises:
        InvalidInputError: the request, the model or the data cannot be used; names what would mend it.
        ConversionFailedError: no artifact came out that may be released.
    """
    plan.check_request(request)
    with tempfile.TemporaryDirectory(dir=request.scratch_path, prefix="work-") as folder:
        ground = prepare(request, Path(folder), tell)
        tell(Stage.SEARCH)
        bench = _bench(ground, tell)
        trials = _trials(ground, bench)
        said = [] if bench.in_time() else [doubts.of_time(len(trials), request.max_search_s)]
        tell(Stage.GATE)
        choice = _choose(ground, bench, trials, tell)
        tell(Stage.CARD)
        result = _result(ground, trials, choice, said)
        card_path = cards.write(ground, choice, result, bench.sensitivity)
        return _judged(msgspec.structs.replace(result, card_path=card_path), choice, trials)


def _bench(ground: Ground, tell: Tell) -> Bench:
    done = 0

    def progress(step: str) -> None:
        nonlocal done
        tell(Stage.SEARCH, done / (done + _USUAL_CANDIDATES), step)
        done += 1

    shop = Shop(
        request=msgspec.structs.replace(ground.request, budget=ground.budget),
        kept=ground.kept,
        program=ground.program,
        made=ground.made,
        model=ground.model,
        pipeline=ground.pipeline,
        calibration=ground.data.splits[Split.CALIBRATION],
        searched=ground.searched,
        stopwatch=_stopwatch(ground.request, _SEARCH_PATIENCE_S),
    )
    return Bench(shop, progress)


def _trials(ground: Ground, bench: Bench) -> list[Trial]:
    return [_finished(ground, bench)] if ground.is_finished else search.explore(_question(ground), bench)


def _finished(ground: Ground, bench: Bench) -> Trial:
    """Return the trial of a source that is an artifact already."""
    integer_io = any(not spec.dtype.startswith("float") for spec in ground.made.facts.inputs)
    return bench.measured(Recipe(scheme=Scheme.FULL_INT8, integer_io=integer_io), ground.model)


def _question(ground: Ground) -> Question:
    request = ground.request
    return Question(
        schemes=request.schemes,
        profiles=request.profiles,
        budget=ground.budget,
        objective=request.objective,
        image_input=request.image_input,
    )


def _choose(ground: Ground, bench: Bench, trials: Sequence[Trial], tell: Tell) -> Choice:
    request = msgspec.structs.replace(ground.request, budget=ground.budget)
    court = Court(
        request=request,
        pipeline=ground.pipeline,
        judged=ground.judged,
        slices=ground.data.spec.slices,
        stateful=ground.made.stateful,
        stopwatch=_stopwatch(ground.request, _GATE_PATIENCE_S),
    )

    def judge(trial: Trial, look: int) -> ConvertedArtifact:
        tell(Stage.GATE, look / (look + 1), search.describe(trial.recipe))
        content = ground.model if ground.is_finished else bench.content(trial.recipe)
        return court.judge(content, trial, look)

    return choosing.choose(trials, _question(ground), ground.request.runtimes, judge, ground.blocked)


def _stopwatch(request: ConversionRequest, patience_s: float) -> OwnStopwatch:
    threads = max(profile.threads for profile in request.profiles)
    return OwnStopwatch(threads=min(threads, request.threads), patience_s=patience_s)


def _result(ground: Ground, trials: Sequence[Trial], choice: Choice, said: Sequence[str]) -> ConversionResult:
    request, facts = ground.request, ground.made.facts
    artifacts = tuple(choice.artifacts.values())
    warnings = [*ground.data.doubts, *_of_labels(ground), *said]
    for made in artifacts:
        warnings += doubts.of_artifact(made, ground.budget)
    runtime, version = runtime_name_and_version()
    return ConversionResult(
        artifacts=artifacts,
        message="; ".join(f"warning: {warning}" for warning in warnings),
        warnings=tuple(warnings),
        parameters=facts.parameters,
        source_bytes=Path(request.source_path).stat().st_size,
        worker=f"{facts.worker}, {runtime} {version}",
        candidates=search.table(trials, choice.outcomes(), _question(ground)),
        operators_before=facts.operators_before,
        operators_after=facts.operators_after,
    )


def _of_labels(ground: Ground) -> list[str]:
    judged = ground.judged
    labels = judged.samples.labels
    if labels is None:
        return []
    return doubts.of_data(judged.samples.field, float((judged.answers == labels).mean()), labels, judged.classes)


def _judged(result: ConversionResult, choice: Choice, trials: Sequence[Trial]) -> ConversionResult:
    """Return the result, as a failure that says what came closest where no class of hardware got anything."""
    if choice.chosen:
        return result
    if not trials:
        raise ConversionFailedError(FailureKind.TIMED_OUT, "no time for a single candidate: allow more by max_search_s")
    if not any(trial.sha256 for trial in trials):
        problems = dict.fromkeys(f"{trial.recipe.scheme} could not be made: {trial.failed}" for trial in trials)
        raise ConversionFailedError(FailureKind.NOTHING_PASSED, "; ".join(problems))
    # The refused ones stay in the result: how far each was off is what mends the model.
    closest = gate.closest(result.artifacts) if result.artifacts else search.closest(trials, result.candidates)
    problem = "; ".join(filter(None, [closest, result.message]))
    return msgspec.structs.replace(result, failure=FailureKind.NOTHING_PASSED, message=problem)
