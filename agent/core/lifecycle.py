"""Moving a model's candidate along `transitions.TABLE`, and what each move brings with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.core import health
from agent.core.commands import CancelFetch, FetchRelease, RunTrial
from agent.core.plan import TrialRequest
from agent.core.state import (
    WATCHED,
    Attempt,
    Evidence,
    Meter,
    ModelState,
    Outcome,
    Phase,
    Slot,
    after,
    due,
    holds,
    key_of,
    now_of,
    transfer_of,
)
from agent.core.transitions import Edge, Signal, edge
from shared.wire import AssignmentReport, AssignmentStatus, HaltMode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from agent.core.commands import Draft
    from agent.core.state import AgentState
    from shared.ids import RolloutId, Sha256
    from shared.wire import DesiredModel

GIVE_UP_AFTER = 4
"""Corrupt or refused fetches in a row before the attempt ends: outlasts a mirror that lags for ten seconds."""
_FIRST_RETRY_S = 2.0
_RETRY_CEILING_S = 300.0
_BLACKLIST_LENGTH = 256
_OUTCOMES_UNACKED = 128
_OUTCOMES_KEPT = 32
"""Acknowledged ends remembered, so that a Desired that names an old assignment again is not tried again."""

_CLOCK_STEP_S = 60.0
"""A clock that is set back further than this was not merely corrected."""

_BACKWARDS = frozenset({Signal.DAMAGED, Signal.STABLE_LOST})
_HALTED = "halted"
HALT_SIGNALS = {HaltMode.STOP: Signal.HALT_STOP, HaltMode.REVERT: Signal.HALT_REVERT}


def begin(draft: Draft, model: ModelState, wanted: DesiredModel) -> ModelState:
    """Take up an assignment that has not ended; `model` is idle."""
    if model.stable is not None and holds(model.stable, wanted):
        return _adopt(draft, move(draft, model, Signal.ALREADY_STABLE, draft.state.note), model.stable, wanted)
    # After ALREADY_STABLE: what is committed already is not activated by being wanted, so that no halt concerns it
    # here.
    mode = halts_of(draft.state).get(wanted.rollout_id)
    if mode is not None:
        return move(draft, model, HALT_SIGNALS[mode], "halted")
    if wanted.artifact.sha256 in draft.state.blacklist:
        return move(draft, model, Signal.BLACKLISTED)
    begun = replace(model, candidate=Slot(release=wanted), attempt=Attempt(since=draft.at, changed_at=draft.at))
    return move(draft, begun, Signal.WANTED)


def _adopt(draft: Draft, model: ModelState, stable: Slot, wanted: DesiredModel) -> ModelState:
    """Let a committed slot belong to the newest assignment that wants it, so that an older rollout's halt spares it.

    Not to one that is halted: what a halted rollout goes back to did not come from it. A slot that was found after the
    journal was lost came from whom Desired says, halted or not.
    """
    if stable.release.rollout_id and wanted.rollout_id in halts_of(draft.state):
        return model
    return replace(model, stable=replace(stable, release=wanted))


def move(draft: Draft, model: ModelState, signal: Signal, reason: str = "") -> ModelState:
    """Follow the table's edge and return the model as it is then; commands that the new phase needs are added."""
    taken = edge(model.phase, signal)
    draft.say(f"{model.model}: {signal}" + (f" ({reason})" if reason else ""))
    if taken.to is Phase.IDLE:
        return _finish(draft, model, taken, reason or str(signal))
    assert model.attempt is not None  # noqa: S101 - every phase but IDLE has one: `begin` makes it
    if taken.to is not model.phase:
        # A way back is worth a reason; a way forward is its own.
        return _enter(draft, model, model.attempt, taken.to, reason if signal in _BACKWARDS else "")
    # An edge that leads back to its own phase is a failure to get on: wait, longer each time.
    retry = after(draft.at, backoff_s(model.attempt.failures))
    failed = replace(model.attempt, failures=model.attempt.failures + 1, retry_at=retry)
    return replace(model, attempt=explain(draft, failed, reason))


def _enter(draft: Draft, model: ModelState, attempt: Attempt, phase: Phase, reason: str) -> ModelState:
    attempt = replace(
        attempt,
        since=draft.at,
        changed_at=draft.at,
        reason=reason,
        applied=False,
        watched_s=0.0,
        watched_at=None,
        failures=0,
        refusals=0,
        retry_at=None,
    )
    # Once per attempt: going from shadow to probation, and back after a crash, adds to the same evidence.
    if phase in WATCHED and not attempt.activated:
        attempt = replace(attempt, activated=True, evidence=_first_evidence(model))
    moved = replace(model, phase=phase, attempt=attempt)
    _request(draft, moved)
    return moved


def _first_evidence(model: ModelState) -> Evidence:
    """Start counting where serving's counters stand, for it may have run this release before."""
    meter = model.meter
    if meter is None or model.candidate is None or meter.release_id != model.candidate.release_id:
        return Evidence()
    return Evidence(boot_id=meter.boot_id, start=meter.reading, now=meter.reading)


def retry(draft: Draft, model: ModelState) -> ModelState:
    """Ask again for what the phase waits for, when its timer has run out."""
    attempt = model.attempt
    if attempt is None or attempt.retry_at is None or not due(draft.at, attempt.retry_at):
        return model
    _request(draft, model)
    return replace(model, attempt=replace(attempt, retry_at=None))


def _request(draft: Draft, model: ModelState) -> None:
    """Add the command whose result the phase waits for; the later phases wait for no single result."""
    if model.candidate is None:
        return
    release, settings = model.candidate.release, draft.state.settings
    if model.phase is Phase.DOWNLOADING:
        draft.do(FetchRelease(model=model.model, release=release))
    if model.phase is Phase.TRIAL:
        request = TrialRequest(
            folder=f"{settings.releases_dir}/{release.release_id}",
            max_memory_bytes=settings.trial_memory_bytes,
            deadline_s=settings.trial_deadline_s,
        )
        draft.do(RunTrial(model=model.model, release_id=release.release_id, request=request))


def _finish(draft: Draft, model: ModelState, taken: Edge, reason: str) -> ModelState:
    """End the assignment of the candidate, or of what is wanted where none was begun."""
    ended = model.candidate.release if model.candidate is not None else model.wanted
    if ended is None or taken.ends is None:
        return model
    if model.phase is Phase.DOWNLOADING:
        draft.do(CancelFetch(model=model.model, release_id=ended.release_id))
    if taken.ends is AssignmentStatus.ROLLED_BACK and model.answering is None:
        # The first word tells whose will it was: the candidate's own failing, or a halt.
        reason = f"{reason}: no_previous" if reason == _HALTED else f"no_previous: {reason}"
    # The last word of the comparison, not the one shown last: the controller decides a wave on it.
    paired = health.total(model.attempt.evidence).paired if model.attempt is not None else None
    record(
        draft,
        AssignmentReport(
            model=ended.model,
            variant=ended.variant,
            release_id=ended.release_id,
            rollout_id=ended.rollout_id,
            attempt=ended.attempt,
            status=taken.ends,
            activated=model.attempt is not None and model.attempt.activated,
            reason=reason,
            changed_at=draft.at,
            paired=paired if paired is not None and paired.pairs + paired.candidate_errors > 0 else None,
            transfer=transfer_of(ended, model.attempt),
        ),
    )
    if taken.blacklists and ended.artifact.sha256:
        blacklist(draft, ended.artifact.sha256)
    # The commit point: with this state in the journal, the candidate is stable.
    committed = _commit(model) if taken.commits else model
    return replace(committed, phase=Phase.IDLE, candidate=None, attempt=None, meter=_meter(model))


def _commit(model: ModelState) -> ModelState:
    # A damaged stable is no place to go back to; what stood before it may be.
    kept = model.stable if model.stable is not None and not model.stable.damaged else model.previous
    return replace(model, stable=model.candidate, previous=kept, mend_at=None)


def _meter(model: ModelState) -> Meter | None:
    if model.attempt is None or model.candidate is None or model.attempt.evidence.boot_id is None:
        return model.meter
    evidence = model.attempt.evidence
    return Meter(release_id=model.candidate.release_id, boot_id=model.attempt.evidence.boot_id, reading=evidence.now)


def record(draft: Draft, ended: AssignmentReport) -> None:
    """Remember how an assignment ended, in place of what was remembered of it, and forget what is long acknowledged."""
    # An assignment ends once. The exception is a success that a halt takes back: it replaces the end before it.
    outcomes = [outcome for outcome in draft.state.outcomes if key_of(outcome.report) != key_of(ended)]
    # A controller that never acknowledges must not fill the disk; it counts what it is not told as silence.
    outcomes = outcomes[-_OUTCOMES_UNACKED:]
    surplus = len(outcomes) - _OUTCOMES_KEPT
    if surplus > 0:
        # What Desired names still must be remembered however old: forgetting it would mean trying it again.
        current = {key_of(model.wanted) for model in draft.state.models if model.wanted is not None}
        old = [o for o in outcomes if o.acked and key_of(o.report) not in current][:surplus]
        outcomes = [outcome for outcome in outcomes if outcome not in old]
    draft.state = replace(draft.state, outcomes=(*outcomes, Outcome(report=ended)))


def blacklist(draft: Draft, artifact: Sha256) -> None:
    """Do not try this artifact again, unless a Desired overrides it."""
    rest = tuple(digest for digest in draft.state.blacklist if digest != artifact)
    draft.state = replace(draft.state, blacklist=(*rest, artifact)[-_BLACKLIST_LENGTH:])


def explain(draft: Draft, attempt: Attempt, reason: str) -> Attempt:
    """Set why the attempt does not move; an unchanged reason changes nothing."""
    return attempt if attempt.reason == reason else replace(attempt, reason=reason, changed_at=draft.at)


def backoff_s(failures: int) -> float:
    """Return how long to wait after this many failures before."""
    return min(_FIRST_RETRY_S * 2.0 ** min(failures, 10), _RETRY_CEILING_S)


def halts_of(state: AgentState) -> Mapping[RolloutId, HaltMode]:
    """Return the halted rollouts that the newest Pulse names; an old Pulse still halts, it only authorises nothing."""
    return state.pulse.halted if state.pulse is not None else {}


def clearance(state: AgentState, at: datetime, rollout_id: RolloutId) -> str:
    """Return why a release of this rollout may not be activated now, or "" when it may."""
    if state.desired is None or now_of(state, at) >= state.desired.expires_at:
        return "stale_desired"
    problem = pulse_problem(state, at)
    if problem:
        return problem
    return "halted" if rollout_id in halts_of(state) else ""


def pulse_problem(state: AgentState, at: datetime) -> str:
    """Return why the newest Pulse authorises nothing, or "" when it does.

    Its age is the larger of what its own time and what its arrival say, so that neither a clock that stands still nor
    one that jumped can make an old Pulse young.
    """
    pulse, received_at = state.pulse, state.pulse_received_at
    if pulse is None or received_at is None:
        return "no_pulse"
    # A database that was restored counts serials anew under a higher epoch; a Pulse of before it knows no later
    # halts.
    if state.desired is not None and pulse.epoch < state.desired.epoch:
        return "stale_pulse"
    if (received_at - at).total_seconds() > _CLOCK_STEP_S:
        # The clock went back behind the Pulse's arrival: how old it is, nobody knows any more.
        return "stale_pulse"
    age_s = max((now_of(state, at) - pulse.issued_at).total_seconds(), (at - received_at).total_seconds())
    return "stale_pulse" if age_s > state.settings.pulse_max_age_s else ""
