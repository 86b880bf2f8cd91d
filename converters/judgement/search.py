"""Which recipes are worth a try, and which of those tried each class of hardware should have.

Decides on figures alone; a Workbench makes and measures. Errors of layers do not add, so that nothing is predicted:
every step is a whole model, measured on the search split. What wins there is judged on the gate split, which no choice
has looked at: see `next_look` for how often that may be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from converters.judgement import gate
from shared.conversion import CalibrationMethod, Candidate, Objective, Recipe
from shared.hardware import Runtime
from shared.ids import Sha256
from shared.manifest import Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.conversion import AccuracyBudget
    from shared.hardware import HardwareProfile

CALIBRATED = frozenset({Scheme.FULL_INT8, Scheme.INT16X8})
"""Schemes with fixed activation ranges."""
_WEIGHTS_ONLY = frozenset({Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT8, Scheme.WEIGHT_INT4, Scheme.BLOCK_INT4})
_UNFIT = {Runtime.TFLITE_RUNTIME: frozenset({Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT4, Scheme.BLOCK_INT4})}
"""tflite-runtime 2.14 knows the operators of these in older versions only. Measured: 9.2 % accuracy without an error
before versions were stamped, a crash, or a refusal."""
_FIRST = (Scheme.FLOAT32, Scheme.FLOAT16)
"""Cheapest to make and all but certain to pass: a search cut short has something to show."""
_STEPS = (4, 8, 16, 24)
"""Layers kept in float16 by a mixed model, from few to many; then more by this many at a time."""
_FURTHER = 16
_SMALL_STEPS = (1, 2, 4)
"""Of a network with few layers."""
_METHODS = {
    Scheme.FULL_INT8: (
        CalibrationMethod.PERCENTILE,
        CalibrationMethod.MSE,
        CalibrationMethod.MIN_MAX,
        CalibrationMethod.KL,
    ),
    Scheme.INT16X8: (CalibrationMethod.MIN_MAX,),
}
"""Ways to choose ranges, the one that fits most models first; with 65,536 levels there is no need to choose."""
_MENDABLE = 4.0
"""Times the allowed loss: no other way to choose ranges, and no equalisation, was seen to take back more than that."""
_CLEARLY_DB = 1.5
"""More signal than what failed, over the noise: a sixth less noise. It tells apart what few answers cannot."""
_LEAST_LOSS = 0.005
"""Taken for the allowed loss where none is allowed: a handful of samples."""
_RESERVE = (3, 6)
"""Further layers kept float, beyond the fewest that pass: for the gate, where chance may have favoured the fewest."""
_HALVINGS = 2
"""Tries between the last step that failed and the first that passed."""
_HOPELESS = 0.001
"""Chance of giving up on a candidate that would have passed, when only part of the samples were looked at."""
MAX_LOOKS = 4
"""At the gate, for one class of hardware: each further one must show more for the same certainty."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe as it came out on the search split."""

    recipe: Recipe
    failed: str = ""
    """Why there is no artifact of it; the other figures mean nothing then."""
    broken: str = ""
    """Why it is no faithful copy, whatever the budget: NaN, lost weights."""
    sha256: Sha256 = Sha256("")
    length_bytes: int = 0
    latency_ms: float = 0.0
    """Median."""
    latency_p95_ms: float = 0.0
    samples: int = 0
    agreement: float = 0.0
    confident_agreement: float = 0.0
    accuracy: float | None = None
    """None without labels."""
    drop: float = 0.0
    """Of accuracy, on these samples."""
    snr_db: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is looked for."""

    schemes: tuple[Scheme, ...]
    profiles: tuple[HardwareProfile, ...]
    budget: AccuracyBudget
    objective: Objective
    image_input: bool = False


class Workbench(Protocol):
    """Makes and measures."""

    def attempt(self, recipe: Recipe) -> Trial:
        """Make the artifact of a recipe and measure it on the search split; says in the trial why it could not."""
        ...

    def ranking(self) -> Sequence[str]:
        """Return the output tensors of the operators that quantization hurts, the best worth keeping first."""
        ...

    def in_time(self) -> bool:
        """Whether there is time for another."""
        ...


def explore(question: Question, bench: Workbench) -> list[Trial]:
    """Try what may win, and return every trial in order; stops early where the time is used up."""
    walk = _Walk(question, bench)
    for scheme in _order(question):
        if scheme in CALIBRATED:
            walk.calibrated(scheme)
        elif scheme is Scheme.MIXED:
            walk.mixed()
        elif scheme in _WEIGHTS_ONLY:
            walk.weights_only(scheme)
        else:
            walk.attempt(Recipe(scheme=scheme))
    walk.mend()
    return walk.trials


def refusal(trial: Trial, question: Question) -> str:
    """Return "" for a trial that keeps the budget on the search split, else why not.

    By the figures themselves, not by their bounds: there may be few samples, and the gate has the last word.
    """
    budget = question.budget
    if trial.failed or trial.broken:
        return trial.failed or trial.broken
    if trial.accuracy is not None and trial.drop > budget.max_drop:
        return f"accuracy_drop: {trial.drop:.3f} > {budget.max_drop:.3f}"
    if trial.accuracy is None and trial.agreement < budget.min_agreement:
        return f"agreement: {trial.agreement:.4f} < {budget.min_agreement:.4f}"
    if trial.accuracy is None and trial.confident_agreement < budget.min_confident_agreement:
        return f"confident_agreement: {trial.confident_agreement:.4f} < {budget.min_confident_agreement:.4f}"
    return gate.snr_refusal(trial.snr_db, budget.min_snr_db)


def hopeless(samples: int, lost: int, won: int, allowed: float) -> bool:
    """Whether the first `samples` show already that the rest cannot save it: the loss is surely above `allowed`.

    With labels, `lost` and `won` are discordant samples; without, `lost` are those answered differently.
    """
    return gate.drop_floor(samples, lost, won, _HOPELESS) > allowed


def unfit(trial: Trial, profile: HardwareProfile) -> str:
    """Return "" or why devices of this class may not have the artifact, however accurate it is."""
    if trial.recipe.scheme in _UNFIT.get(profile.runtime, frozenset()):
        return f"runtime: {profile.runtime} computes {trial.recipe.scheme} wrongly or not at all"
    if profile.max_size_bytes is not None and trial.length_bytes > profile.max_size_bytes:
        return f"size: {trial.length_bytes:,} bytes > {profile.max_size_bytes:,}"
    if profile.max_latency_ms is not None and trial.latency_p95_ms > profile.max_latency_ms:
        return f"latency: p95 {trial.latency_p95_ms:.3g} ms > {profile.max_latency_ms:g} ms (on the converter)"
    return ""


def ranked(trials: Sequence[Trial], question: Question, profile: HardwareProfile) -> list[Trial]:
    """Return the trials that a class of hardware may have, the best first."""
    fitting = [trial for trial in trials if not refusal(trial, question) and not unfit(trial, profile)]
    return sorted(fitting, key=lambda trial: _cost(trial, question.objective))


def next_look(order: Sequence[Trial], failed: Sequence[Trial]) -> Trial | None:
    """Return which of the `ranked` goes to the gate next, after those that failed there; None when it is enough.

    Only one that is clearly more faithful than what failed: near misses would spend certainty on chance. The last look
    is for the most faithful one, so that they do not keep a class from getting anything. It depends on nothing that the
    gate measured but on which failed, so that the looks may be counted as if they were fixed beforehand.
    """
    if len(failed) >= MAX_LOOKS:
        return None
    seen = {trial.sha256 for trial in failed}
    left = [trial for trial in order if trial.sha256 not in seen]
    if len(failed) == MAX_LOOKS - 1:
        return max(left, key=lambda trial: trial.agreement, default=None)
    agreement = max((trial.agreement for trial in failed), default=0.0)
    signal_db = max((_signal_db(trial) for trial in failed), default=-math.inf)
    clearer = (t for t in left if t.agreement >= agreement and _signal_db(t) >= signal_db + _CLEARLY_DB)
    # Where nothing is clearly better, what is best of all the rest.
    return next(clearer, max(left, key=_signal_db, default=None))


def table(trials: Sequence[Trial], outcomes: dict[Sha256, str], question: Question) -> tuple[Candidate, ...]:
    """Return a row for each trial; `outcomes` tells of the artifacts that were judged at the gate."""
    return tuple(
        Candidate(
            recipe=trial.recipe,
            sha256=trial.sha256,
            length_bytes=trial.length_bytes,
            latency_ms=trial.latency_ms,
            agreement=trial.agreement,
            accuracy=trial.accuracy,
            snr_db=trial.snr_db,
            pareto=_is_pareto(trial, trials),
            outcome=_outcome(trial, outcomes, question),
        )
        for trial in trials
    )


def closest(trials: Sequence[Trial], candidates: Sequence[Candidate]) -> str:
    """Say which trial lost the least, and why it did not even come to the gate."""
    best = min(range(len(trials)), key=lambda index: (_loss(trials[index]), trials[index].length_bytes))
    return f"{describe(trials[best].recipe)} came closest: {candidates[best].outcome}"


class _Walk:
    """The trials so far, and the families of recipes to go through.

    Mean errors are always taken back in the biases where weights lose bits. Measured on EfficientNet-lite0: agreement
    81 → 91 % of full int8, 88 → 95 % of int8 weights; it never did harm.
    """

    def __init__(self, question: Question, bench: Workbench) -> None:
        self.trials: list[Trial] = []
        self._question = question
        self._bench = bench

    def attempt(self, recipe: Recipe) -> Trial | None:
        """Try one; None when there is no time."""
        if not self._bench.in_time():
            return None
        recipe = msgspec.structs.replace(recipe, image_input=self._question.image_input)
        trial = self._bench.attempt(recipe)
        self.trials.append(trial)
        return trial

    def weights_only(self, scheme: Scheme) -> None:
        """Try it once: nothing is fitted but the biases."""
        self.attempt(Recipe(scheme=scheme, correct_bias=True))

    def calibrated(self, scheme: Scheme) -> None:
        """Try each way to choose ranges, until one passes."""
        for method in _METHODS[scheme]:
            trial = self.attempt(Recipe(scheme=scheme, calibration=method, correct_bias=True))
            # Where it cannot be made at all, no other way makes it.
            if trial is None or trial.failed or self._passes(trial) or self._is_beaten(trial):
                return
            if not self._is_mendable(trial):
                return

    def mend(self) -> None:
        """Try the best of those that only just fail on equalised layers, which helps some networks much."""
        near = [trial for trial in self.trials if trial.recipe.scheme in CALIBRATED | _WEIGHTS_ONLY]
        if any(self._passes(trial) for trial in near):
            return
        near = [trial for trial in near if self._is_mendable(trial)]
        if not near:
            return
        best = max(near, key=lambda trial: (trial.agreement, -trial.length_bytes))
        self.attempt(msgspec.structs.replace(best.recipe, equalise=True))

    def mixed(self) -> None:
        """Keep more and more layers in float16, then look for fewer that do as well."""
        if not self._bench.in_time():
            return
        layers = self._bench.ranking()
        failing = 0
        for count in _counts(len(layers)):
            trial = self.attempt(_mixed(layers, count))
            if trial is None or trial.failed:
                return
            if self._passes(trial):
                fewest = self._fewer(layers, failing, count)
                for further in _RESERVE:
                    if fewest + further != count and fewest + further < len(layers):
                        self.attempt(_mixed(layers, fewest + further))
                return
            failing = count

    def _fewer(self, layers: Sequence[str], failing: int, passing: int) -> int:
        """Return the fewest layers that were seen to pass, between two numbers of which the larger does."""
        for _ in range(_HALVINGS):
            middle = (failing + passing) // 2
            trial = self.attempt(_mixed(layers, middle)) if middle > failing else None
            if trial is None:
                break
            if self._passes(trial):
                passing = middle
            else:
                failing = middle
        return passing

    def _passes(self, trial: Trial) -> bool:
        return not refusal(trial, self._question)

    def _is_mendable(self, trial: Trial) -> bool:
        budget = self._question.budget
        allowed = 1 - budget.min_agreement if trial.accuracy is None else budget.max_drop
        return _loss(trial) <= _MENDABLE * max(allowed, _LEAST_LOSS)

    def _is_beaten(self, trial: Trial) -> bool:
        """Whether something passed already that a mended `trial` could not undercut, where size is asked for."""
        if self._question.objective is not Objective.SMALLEST:
            return False
        return any(self._passes(other) and other.length_bytes <= trial.length_bytes for other in self.trials)


def _order(question: Question) -> list[Scheme]:
    """Return the schemes that some class can run, those first that a short search needs."""
    wanted = [
        scheme
        for scheme in question.schemes
        if any(scheme not in _UNFIT.get(profile.runtime, frozenset()) for profile in question.profiles)
    ]
    # The dearest to make last.
    rank = {scheme: number for number, scheme in enumerate((*_FIRST, *_sorted(_WEIGHTS_ONLY), Scheme.MIXED))}
    return sorted(wanted, key=lambda scheme: (rank.get(scheme, len(rank)), scheme))


def _sorted(schemes: frozenset[Scheme]) -> list[Scheme]:
    return [scheme for scheme in Scheme if scheme in schemes]


def _mixed(layers: Sequence[str], count: int) -> Recipe:
    return Recipe(scheme=Scheme.MIXED, kept_float=tuple(layers[:count]), correct_bias=True)


def _counts(layers: int) -> list[int]:
    steps = _SMALL_STEPS if layers <= 2 * _STEPS[0] else _STEPS
    counts = [count for count in steps if count < layers]
    counts += range(_STEPS[-1] + _FURTHER, layers, _FURTHER)
    return counts


def _cost(trial: Trial, objective: Objective) -> tuple[float, float, str]:
    # The digest last: the same question has the same answer.
    if objective is Objective.FASTEST:
        return trial.latency_ms, float(trial.length_bytes), trial.sha256
    return float(trial.length_bytes), trial.latency_ms, trial.sha256


def _loss(trial: Trial) -> float:
    if trial.failed or trial.broken:
        return math.inf
    return 1 - trial.agreement if trial.accuracy is None else trial.drop


def _signal_db(trial: Trial) -> float:
    return math.inf if trial.snr_db is None else trial.snr_db


def _is_pareto(trial: Trial, trials: Sequence[Trial]) -> bool:
    mine = (trial.length_bytes, _loss(trial))
    if mine[1] == math.inf:
        return False
    others = ((other.length_bytes, _loss(other)) for other in trials if other.sha256 != trial.sha256)
    return not any(size <= mine[0] and loss <= mine[1] and (size, loss) != mine for size, loss in others)


def describe(recipe: Recipe) -> str:
    """Return a recipe in words: `mixed, 16 layers float16, bias corrected`."""
    words: list[str] = [recipe.scheme]
    words += [recipe.calibration] if recipe.calibration is not None else []
    words += [f"{len(recipe.kept_float)} layers float16"] if recipe.kept_float else []
    named = {
        "per tensor": recipe.per_tensor,
        "equalised": recipe.equalise,
        "bias corrected": recipe.correct_bias,
        "integer in and out": recipe.integer_io,
        "image input": recipe.image_input,
    }
    return ", ".join(words + [name for name, is_so in named.items() if is_so])


def _outcome(trial: Trial, outcomes: dict[Sha256, str], question: Question) -> str:
    if trial.failed:
        return f"failed: {trial.failed}"
    if trial.sha256 in outcomes:
        return outcomes[trial.sha256]
    problem = refusal(trial, question)
    if problem:
        return f"search: {problem}"
    reasons = {profile.profile_id: unfit(trial, profile) for profile in question.profiles}
    if all(reasons.values()):
        return "search: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return "search: another is better"
