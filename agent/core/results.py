"""Taking in results of fetches and trials; a result that nobody waits for any more changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.core.events import FetchFailed, FetchFinished, FetchProblem, TrialDelayed, TrialFinished
from agent.core.lifecycle import GIVE_UP_AFTER, move
from agent.core.state import ModelState, Phase, after
from agent.core.transitions import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.core.commands import Draft
    from shared.ids import ModelName

MEND_RETRY_S = 60.0
"""Before the files of a damaged stable release are fetched again."""

Result = FetchFinished | FetchFailed | TrialFinished | TrialDelayed


def take_result(draft: Draft, event: Result) -> None:
    """Hand a result to the model that it is about."""
    match event:
        case FetchFinished():
            _take_fetched(draft, event)
        case FetchFailed():
            _with_model(draft, event.model, lambda model: _fetch_failed(draft, model, event))
        case TrialFinished():
            _with_model(draft, event.model, lambda model: _trial_finished(draft, model, event))
        case TrialDelayed():
            _with_model(draft, event.model, lambda model: _trial_delayed(draft, model, event))


def _with_model(draft: Draft, name: ModelName, change: Callable[[ModelState], ModelState]) -> None:
    """Change one model; an event about a model that is gone changes nothing."""
    for model in draft.state.models:
        if model.model == name:
            changed = change(model)
            models = tuple(changed if other.model == name else other for other in draft.state.models)
            draft.state = replace(draft.state, models=models)


def _take_fetched(draft: Draft, event: FetchFinished) -> None:
    if event.release_id not in draft.state.on_disk:
        draft.state = replace(draft.state, on_disk=(*draft.state.on_disk, event.release_id))
    _with_model(draft, event.model, lambda model: _fetched(draft, model, event))


def _fetched(draft: Draft, model: ModelState, event: FetchFinished) -> ModelState:
    candidate, stable = model.candidate, model.stable
    if model.phase is Phase.DOWNLOADING and candidate is not None and candidate.release_id == event.release_id:
        found = replace(candidate, version_number=event.version_number)
        return move(draft, replace(_counted(model, event), candidate=found), Signal.FETCHED)
    if stable is not None and stable.damaged and stable.release_id == event.release_id:
        draft.say(f"{model.model}: stable mended")
        mended = replace(stable, damaged="", version_number=event.version_number)
        return replace(model, stable=mended, mend_at=None)
    return model


def _counted(model: ModelState, event: FetchFinished) -> ModelState:
    """Add what a fetch took to the attempt: one whose files were damaged later fetches again."""
    if model.attempt is None:
        return model
    fetched_bytes = (model.attempt.fetched_bytes or 0) + event.fetched_bytes
    return replace(model, attempt=replace(model.attempt, fetched_bytes=fetched_bytes))


def _fetch_failed(draft: Draft, model: ModelState, event: FetchFailed) -> ModelState:
    if model.stable is not None and model.stable.damaged and model.stable.release_id == event.release_id:
        return replace(model, mend_at=after(draft.at, MEND_RETRY_S))
    candidate, attempt = model.candidate, model.attempt
    if model.phase is not Phase.DOWNLOADING or candidate is None or attempt is None:
        return model
    # A late echo of a fetch that was cancelled.
    if candidate.release_id != event.release_id:
        return model
    if event.problem is FetchProblem.DELAYED:
        return move(draft, model, Signal.FETCH_DELAYED, event.reason)
    # A mirror behind the controller by seconds looks like an attack at first; one that stays so ends the attempt.
    refusals = attempt.refusals + 1
    if refusals >= GIVE_UP_AFTER:
        signal = Signal.CORRUPT if event.problem is FetchProblem.CORRUPT else Signal.REFUSED
        return move(draft, model, signal, event.reason)
    counted = replace(model, attempt=replace(attempt, refusals=refusals))
    return move(draft, counted, Signal.FETCH_DELAYED, event.reason)


def _trial_finished(draft: Draft, model: ModelState, event: TrialFinished) -> ModelState:
    if not _on_trial(model, event):
        return model
    if event.result.passed:
        return move(draft, model, Signal.TRIAL_PASSED)
    return move(draft, model, Signal.TRIAL_FAILED, event.result.reason or "trial_failed")


def _trial_delayed(draft: Draft, model: ModelState, event: TrialDelayed) -> ModelState:
    return move(draft, model, Signal.TRIAL_DELAYED, event.reason) if _on_trial(model, event) else model


def _on_trial(model: ModelState, event: TrialFinished | TrialDelayed) -> bool:
    candidate = model.candidate
    return model.phase is Phase.TRIAL and candidate is not None and candidate.release_id == event.release_id
