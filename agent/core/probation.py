"""Letting a candidate in, watching it, and letting it stay or go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.core import health
from agent.core.lifecycle import clearance, explain, move
from agent.core.recovery import interrupted
from agent.core.reporting import SHOW_EVERY_S
from agent.core.state import WATCHED, Attempt, ModelState, Phase, Slot, after, due
from agent.core.transitions import Signal
from shared.evidence import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.commands import Draft
    from agent.core.plan import Applied, SlotState, Stats
    from shared.ids import BootId, ModelName, ReleaseId

LOAD_RETRY_S = 30.0
"""Before a stable release that serving could not load is looked at again: it may be short of memory, not of bytes."""
LONGEST_STEP_S = 5.0
"""Most that one reading adds to the watch: a busy device reads late, while a clock that was set jumps by hours."""
_INCONCLUSIVE = "inconclusive"


def activate(draft: Draft, model: ModelState, candidate: Slot, attempt: Attempt) -> ModelState:
    """Load a staged candidate, if the Pulse lets it."""
    problem = clearance(draft.state, draft.at, candidate.release.rollout_id)
    if problem:
        return replace(model, attempt=explain(draft, attempt, problem))
    # Without anything to compare with, shadowing would show nothing: it answers at once, and is watched harder.
    signal = Signal.ACTIVATE_BESIDE if _compared(model, candidate) else Signal.ACTIVATE_ALONE
    return move(draft, model, signal)


def judge_shadow(draft: Draft, model: ModelState, candidate: Slot, attempt: Attempt) -> ModelState:
    """Act on what the comparison shows; without a verdict stable goes on answering, for ever if need be."""
    if not _compared(model, candidate):
        return move(draft, model, Signal.STABLE_LOST)
    policy = candidate.release.policy
    judged = health.judge_shadow(policy, health.total(attempt.evidence).paired)
    if judged.verdict is Verdict.FAIL:
        return move(draft, model, Signal.VERDICT_FAIL, judged.reason)
    if judged.verdict is Verdict.PASS:
        # From here on it answers: that takes as fresh a Pulse as loading it did.
        problem = clearance(draft.state, draft.at, candidate.release.rollout_id)
        if problem:
            return replace(model, attempt=explain(draft, attempt, problem))
        return move(draft, model, Signal.VERDICT_PASS, judged.reason)
    # Doubt holds: no verdict is no failure either, and stable answers, so that waiting harms nobody.
    overdue = (draft.at - attempt.since).total_seconds() > policy.deadline_s
    if overdue and not attempt.reason.startswith(_INCONCLUSIVE):
        reason = f"{_INCONCLUSIVE}: {judged.reason} after {policy.deadline_s:g} s"
        return replace(model, attempt=explain(draft, attempt, reason))
    return model


def judge_probation(draft: Draft, model: ModelState, candidate: Slot, attempt: Attempt) -> ModelState:
    """Commit a candidate that stood its time, or take it out at the first failing gate."""
    judged = health.judge_probation(
        candidate.release.policy,
        health.total(attempt.evidence),
        compared=_compared(model, candidate),
        watched_s=attempt.watched_s if attempt.applied else 0.0,
        # A verdict by time alone would pass a candidate that serving has silently lost.
        seen=draft.measured and attempt.applied,
    )
    if judged.verdict is Verdict.FAIL:
        return move(draft, model, Signal.VERDICT_FAIL, judged.reason)
    if judged.verdict is Verdict.PASS:
        return move(draft, model, Signal.VERDICT_PASS, judged.reason)
    return model


def _compared(model: ModelState, candidate: Slot) -> bool:
    """Tell whether a committed release answers beside the candidate; the same release is no comparison."""
    return model.answering is not None and model.answering.release_id != candidate.release_id


def notice_life(draft: Draft, boot_id: BootId) -> None:
    """Notice a new life of serving: tell it the plan again, and count it against the candidates of the last one.

    Also without control, serving counts: it takes a try off boot.json for each life that loads a candidate, and refuses
    one that has none left, which is a failed load here.
    """
    known = draft.state.serving_boot_id
    if known == boot_id:
        return
    draft.state = replace(draft.state, serving_boot_id=boot_id)
    # The first life that this journal hears of; it has not replaced any that held something.
    if known is None:
        return
    draft.resend_plan = True
    draft.say(f"serving restarted as {boot_id}")
    models = tuple(_count_life(draft, model) for model in draft.state.models)
    draft.state = replace(draft.state, models=models)


def _count_life(draft: Draft, model: ModelState) -> ModelState:
    if model.phase not in WATCHED or model.attempt is None:
        return model
    return interrupted(draft, model, model.attempt.interruptions + 1)


def take_applied(draft: Draft, applied: Applied) -> None:
    """Take in what serving made of a plan; what it says of an older plan is no longer news."""
    notice_life(draft, applied.boot_id)
    # Serving converges on the newest plan alone; what it says of one before may not hold any more.
    if applied.serial != draft.state.plan.serial:
        return
    draft.resend_plan = False
    draft.state = replace(draft.state, applied_serial=applied.serial)
    states = {(slot.model, slot.release_id): slot for slot in applied.slots}
    models = []
    for model in draft.state.models:
        slot = states.get((model.model, model.candidate.release_id)) if model.candidate is not None else None
        current = _candidate_applied(draft, model, slot) if slot is not None and model.phase in WATCHED else model
        answering = current.answering
        held = states.get((model.model, answering.release_id)) if answering is not None else None
        if answering is not None and held is not None and not held.loaded:
            current = _committed_not_loaded(draft, current, answering, held.error)
        models.append(_probed(current, states))
    draft.state = replace(draft.state, models=tuple(models))


def _probed(model: ModelState, states: Mapping[tuple[ModelName, ReleaseId], SlotState]) -> ModelState:
    """Keep what was measured of each release when it was loaded."""

    def probed(slot: Slot | None) -> Slot | None:
        held = states.get((model.model, slot.release_id)) if slot is not None else None
        if slot is None or held is None or held.probe is None or held.probe == slot.probe:
            return slot
        return replace(slot, probe=held.probe)

    fresh = [probed(slot) for slot in (model.candidate, model.stable, model.previous)]
    if fresh == [model.candidate, model.stable, model.previous]:
        return model
    return replace(model, candidate=fresh[0], stable=fresh[1], previous=fresh[2])


def _candidate_applied(draft: Draft, model: ModelState, slot: SlotState) -> ModelState:
    # Loading in serving is the last thing that can refuse: its trial ran alone, with all the memory to itself.
    if not slot.loaded:
        return move(draft, model, Signal.LOAD_FAILED, f"load_failed: {slot.error}")
    if model.attempt is None or model.attempt.applied:
        return model
    held = replace(
        model.attempt,
        applied=True,
        since=draft.at,
        watched_s=0.0,
        watched_at=draft.at,
        held_by=draft.state.serving_boot_id,
    )
    return replace(model, attempt=held)


def _committed_not_loaded(draft: Draft, model: ModelState, slot: Slot, error: str) -> ModelState:
    """Answer from previous or not at all until the files were looked at again."""
    draft.say(f"{model.model}: {slot.release_id} not loaded ({error})")
    if model.stable is not None and slot.release_id == model.stable.release_id:
        damaged = replace(model.stable, damaged=error or "not_loaded")
        return replace(model, stable=damaged, mend_at=after(draft.at, LOAD_RETRY_S))
    return replace(model, previous=None)


def take_stats(draft: Draft, stats: Stats) -> None:
    """Take in cumulative counters."""
    notice_life(draft, stats.boot_id)
    # Only the event that brings counters may commit: see `judge_probation`.
    draft.measured = True
    models = tuple(_measure(draft, model, stats) for model in draft.state.models)
    draft.state = replace(draft.state, models=models)


def _measure(draft: Draft, model: ModelState, stats: Stats) -> ModelState:
    if model.phase not in WATCHED or model.candidate is None or model.attempt is None:
        return model
    attempt = model.attempt
    reading = health.read_counters(stats, model.model, model.candidate.release_id)
    attempt = replace(
        attempt,
        evidence=health.absorb(attempt.evidence, stats.boot_id, reading),
        watched_s=attempt.watched_s + _step_s(draft, attempt),
        watched_at=draft.at,
    )
    if attempt.shown_at is None or due(draft.at, after(attempt.shown_at, SHOW_EVERY_S)):
        paired = health.total(attempt.evidence).paired
        attempt = replace(attempt, shown=paired, shown_at=draft.at)
    return replace(model, attempt=attempt)


def _step_s(draft: Draft, attempt: Attempt) -> float:
    """Return how much longer the candidate has been watched; a longer gap than between readings is nobody's watch."""
    if not attempt.applied or attempt.watched_at is None:
        return 0.0
    longest_s = max(LONGEST_STEP_S, 2 * draft.state.settings.stats_s)
    return min(max((draft.at - attempt.watched_at).total_seconds(), 0.0), longest_s)


def drive_watched(draft: Draft, model: ModelState) -> ModelState:
    """Move a staged or loaded candidate as far as the Pulse and its evidence allow."""
    if model.candidate is None or model.attempt is None:
        return model
    match model.phase:
        case Phase.STAGED:
            return activate(draft, model, model.candidate, model.attempt)
        case Phase.SHADOW:
            return judge_shadow(draft, model, model.candidate, model.attempt)
        case Phase.PROBATION:
            return judge_probation(draft, model, model.candidate, model.attempt)
        case Phase.IDLE | Phase.DOWNLOADING | Phase.TRIAL:
            return model
