"""From the trials of a search to what each class of hardware gets: the gate decides, and every look at it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from converters.judgement import search
from converters.judgement.judge import unfit
from shared.errors import ModelFailedError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from converters.judgement.search import Question, Trial
    from shared.conversion import ConvertedArtifact, RuntimeVersion
    from shared.hardware import HardwareProfile
    from shared.ids import HardwareProfileId, Sha256

    Judge = Callable[[Trial, int], ConvertedArtifact]
    """Judges a trial's artifact at the look of that number. Raises ModelLoadError, ModelFailedError."""

_OTHER = "another: one that passed, too, suits this class better"


@dataclass(slots=True, kw_only=True)
class Choice:
    """Who gets what."""

    artifacts: dict[Sha256, ConvertedArtifact] = field(default_factory=dict)
    """All that were judged, in order."""
    broken: dict[Sha256, str] = field(default_factory=dict)
    """What did not even run at the gate."""
    chosen: dict[HardwareProfileId, Sha256] = field(default_factory=dict)

    @property
    def looks(self) -> int:
        """How many artifacts were let before the gate."""
        return len(self.artifacts) + len(self.broken)

    def outcomes(self) -> dict[Sha256, str]:
        """Return what became of each, for the table of candidates."""
        said = {sha256: f"gate: {reason}" for sha256, reason in self.broken.items()}
        for made in self.artifacts.values():
            winners = [profile for profile, sha256 in self.chosen.items() if sha256 == made.sha256]
            reasons = "; ".join(f"{profile}: {reason}" for profile, reason in made.refused_for.items())
            said[made.sha256] = f"chosen: {', '.join(winners)}" if winners else f"gate: {made.refused or reasons}"
        return said


def choose(
    trials: Sequence[Trial],
    question: Question,
    fleet: Sequence[RuntimeVersion],
    judge: Judge,
    blocked: Mapping[HardwareProfileId, str] = MappingProxyType({}),
) -> Choice:
    """Let the best candidate of each class before the gate, and the next best where it fails, as far as is honest.

    `blocked` classes get nothing, for the reason given: no look at the gate is spent on them.
    """
    choice = Choice()
    for profile in question.profiles:
        if profile.profile_id not in blocked:
            _choose_for(profile, search.ranked(trials, question, profile), fleet, judge, choice)
    _refuse_others(trials, question, fleet, choice, blocked)
    return choice


def _choose_for(
    profile: HardwareProfile, order: Sequence[Trial], fleet: Sequence[RuntimeVersion], judge: Judge, choice: Choice
) -> None:
    failed: list[Trial] = []
    left = list(order)
    while (trial := search.next_look(left, failed)) is not None:
        made = _judged(trial, judge, choice)
        if made is None or made.refused:
            failed.append(trial)
            continue
        reason = unfit(made, profile, fleet)
        if not reason:
            choice.chosen[profile.profile_id] = made.sha256
            return
        # Its answers are right: that this class cannot run it says nothing of how faithful the next must be.
        choice.artifacts[made.sha256] = msgspec.structs.replace(
            made, refused_for={**made.refused_for, profile.profile_id: reason}
        )
        left = [other for other in left if other.sha256 != trial.sha256]


def _refuse_others(
    trials: Sequence[Trial],
    question: Question,
    fleet: Sequence[RuntimeVersion],
    choice: Choice,
    blocked: Mapping[HardwareProfileId, str],
) -> None:
    """Say of each artifact why the classes that did not choose it may not have it."""
    by_digest = {trial.sha256: trial for trial in trials}
    for sha256, made in choice.artifacts.items():
        if made.refused:
            continue
        reasons = {**blocked, **made.refused_for}
        for profile in question.profiles:
            if choice.chosen.get(profile.profile_id) != sha256:
                reason = search.unfit(by_digest[sha256], profile) or unfit(made, profile, fleet)
                reasons.setdefault(profile.profile_id, reason or _OTHER)
        choice.artifacts[sha256] = msgspec.structs.replace(made, refused_for=reasons)


def _judged(trial: Trial, judge: Judge, choice: Choice) -> ConvertedArtifact | None:
    if trial.sha256 in choice.broken:
        return None
    # A second look at the same artifact is none: it has the same answers.
    if trial.sha256 not in choice.artifacts:
        try:
            choice.artifacts[trial.sha256] = judge(trial, choice.looks)
        except (ModelLoadError, ModelFailedError) as exc:
            choice.broken[trial.sha256] = f"does not run: {exc}"
            return None
    return choice.artifacts[trial.sha256]
