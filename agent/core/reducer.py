"""The agent's mind: `decide(state, event) -> Decision(state, commands, reason)`. No I/O, no clock, no randomness.

    take the event in            documents, results, counters: each by one function below
    settle every model           halts, then what is wanted against what there is, then gates (`_settle`)
    derive what follows          plan, boot file, folders to remove, report: sent iff they differ from the last ones

Since all that is sent follows from the state, nothing is lost when the process dies between deciding and doing: a start
sends it again.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, assert_never

from msgspec.structs import replace

from agent.core import measuring
from agent.core.commands import ApplyPlan, Decision, Draft, FetchRelease, RequestDocuments, RequestStats
from agent.core.consequences import derive
from agent.core.documents import refuse_desired, take_desired, take_pulse
from agent.core.events import (
    DesiredReceived,
    DesiredRefused,
    Event,
    FetchFailed,
    FetchFinished,
    MeasurementDelayed,
    MeasurementFinished,
    PlanApplied,
    PulseReceived,
    ReportAcked,
    ServingRestarted,
    Started,
    StatsMeasured,
    Tick,
    TrialDelayed,
    TrialFinished,
    TrustRefreshed,
)
from agent.core.halts import enforce
from agent.core.lifecycle import begin, move, retry
from agent.core.probation import drive_watched, notice_life, take_applied, take_stats
from agent.core.recovery import reconcile
from agent.core.results import take_result
from agent.core.state import WATCHED, AgentState, ModelState, Phase, after, due, holds, is_settled, key_of
from agent.core.transitions import Signal

if TYPE_CHECKING:
    from shared.wire import DesiredModel

PLAN_RETRY_S = 10.0
"""Before a plan that serving has not answered is sent again: serving may be starting."""
STALE_REFRESH_S = 60.0
"""Between questions over HTTPS while the Pulse is stale: the broker may be all that is broken."""
MEND_TIMEOUT_S = 300.0


def decide(state: AgentState, event: Event) -> Decision:
    """Return the state after `event`, what to do about it, and why."""
    draft = Draft(at=event.at, state=state)
    _take(draft, event)
    _settle(draft)
    # After the models: whatever a rollout has begun just now goes before.
    measuring.settle(draft)
    derive(draft, before=state)
    return Decision(state=draft.state, commands=tuple(draft.commands), reason="; ".join(draft.reasons))


def _take(draft: Draft, event: Event) -> None:  # noqa: C901, PLR0912 - one branch an event: a table
    match event:
        case Started():
            reconcile(draft, event)
            measuring.resume(draft)
            _keep_time(draft)
        case DesiredReceived():
            take_desired(draft, event)
        case DesiredRefused(reason=reason):
            refuse_desired(draft, reason)
        case PulseReceived():
            take_pulse(draft, event)
        case TrustRefreshed(expires_at=expires_at):
            draft.state = replace(draft.state, trusted_until=expires_at)
        case FetchFinished() | FetchFailed() | TrialFinished() | TrialDelayed():
            take_result(draft, event)
        case MeasurementFinished() | MeasurementDelayed():
            measuring.take(draft, event)
        case PlanApplied(applied=applied):
            take_applied(draft, applied)
        case StatsMeasured(stats=stats):
            take_stats(draft, stats)
        case ServingRestarted(boot_id=boot_id):
            notice_life(draft, boot_id)
        case ReportAcked(revision=revision):
            _take_ack(draft, revision)
        case Tick():
            _keep_time(draft)
        case _:
            assert_never(event)


def _take_ack(draft: Draft, revision: int) -> None:
    outcomes = tuple(
        replace(outcome, acked=True) if 0 < outcome.revision <= revision and not outcome.acked else outcome
        for outcome in draft.state.outcomes
    )
    if outcomes != draft.state.outcomes:
        draft.state = replace(draft.state, outcomes=outcomes)


# --- time ----------------------------------------------------------------------------------------


def _keep_time(draft: Draft) -> None:
    """Do what is due by the clock alone."""
    state, at = draft.state, draft.at
    watching = any(model.phase in WATCHED for model in state.models)
    wait_s = state.settings.stats_s if watching else state.settings.idle_stats_s
    # A timer that was set while nothing was watched must not delay the first look at a candidate.
    if due(at, state.stats_at) or (state.stats_at is not None and state.stats_at > after(at, wait_s)):
        draft.state = state = replace(state, stats_at=after(at, wait_s))
        draft.do(RequestStats())
    if due(at, state.refresh_at):
        wait_s = min(STALE_REFRESH_S, state.settings.refresh_s) if state.stale else state.settings.refresh_s
        draft.state = state = replace(
            state, refresh_at=after(at, wait_s * _splay(state)), refreshes=state.refreshes + 1
        )
        draft.do(RequestDocuments())
    # Serving may have died of the plan, or started after it was sent; to send it twice costs nothing.
    unanswered = state.applied_serial < state.plan.serial and state.plan_sent_at is not None
    if unanswered and state.plan_sent_at is not None and due(at, after(state.plan_sent_at, PLAN_RETRY_S)):
        draft.state = replace(state, plan_sent_at=at)
        draft.do(ApplyPlan(plan=state.plan))


def _splay(state: AgentState) -> float:
    """Return 0.8..1.2, other for each device and turn, so that a fleet does not ask in step."""
    seed = f"{state.settings.identity.device_id}:{state.refreshes}".encode()
    return 0.8 + 0.4 * (zlib.crc32(seed) / 0xFFFFFFFF)


# --- settling ------------------------------------------------------------------------------------


def _settle(draft: Draft) -> None:
    """Bring every model as far towards what is wanted as it can go now."""
    before = draft.state.models
    settled = tuple(model for model in (_settle_model(draft, model) for model in before) if model is not None)
    # By identity: an unchanged state is not journaled, and a device at rest must not write once a second.
    if any(new is not old for new, old in zip(settled, before, strict=False)) or len(settled) != len(before):
        draft.state = replace(draft.state, models=settled)


def _settle_model(draft: Draft, model: ModelState) -> ModelState | None:
    """Return the model as it is now, or None when a Desired does not list it any more."""
    # Halts first: whatever else an event brings, nothing of a halted rollout may come of it.
    model = enforce(draft, model)
    wanted = model.wanted
    if wanted is None:
        return _unlisted(draft, model)
    # Then what is no longer wanted, so that the next line may begin what is.
    model = _pre_empt(draft, model, wanted)
    if model.phase is Phase.IDLE and not is_settled(draft.state, model):
        model = begin(draft, model, wanted)
    # Gates last: they judge what the lines above have left standing.
    return drive_watched(draft, _mend(draft, retry(draft, model)))


def _unlisted(draft: Draft, model: ModelState) -> ModelState | None:
    if draft.state.desired is None:
        # Found on disk before any Desired came: it goes on answering until one says otherwise.
        return _mend(draft, model)
    if model.phase is not Phase.IDLE:
        move(draft, model, Signal.UNLISTED)
    draft.say(f"{model.model}: removed")
    return None


def _pre_empt(draft: Draft, model: ModelState, wanted: DesiredModel) -> ModelState:
    """Drop a candidate that is no longer wanted; a mere change of policy goes on with the evidence there is."""
    candidate = model.candidate
    if candidate is None or candidate.release == wanted:
        return model
    # Same assignment, same files: only the policy moved, and the gates go by the new one from here on.
    if key_of(candidate.release) == key_of(wanted) and holds(candidate, wanted):
        return replace(model, candidate=replace(candidate, release=wanted))
    return move(draft, model, Signal.SUPERSEDED)


def _mend(draft: Draft, model: ModelState) -> ModelState:
    """Fetch a damaged stable again. It was committed before, so this activates nothing and asks no Pulse."""
    stable = model.stable
    if stable is None or not stable.damaged or not due(draft.at, model.mend_at):
        return model
    draft.do(FetchRelease(model=model.model, release=stable.release))
    return replace(model, mend_at=after(draft.at, MEND_TIMEOUT_S))
