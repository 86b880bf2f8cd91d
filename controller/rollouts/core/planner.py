"""What a rollout does next: `decide(state, event)` and nothing else. Pure; the event carries the time.

An event is first folded into the counters, then the open wave is judged:

    verdict        rollout running                          rollout paused
    pass           wave succeeds, next wave or completed    (not judged: only a resume lets it go on)
    fail           halt, restore: aborting / rolling_back   the same: a guard does not sleep
    inconclusive   hold: paused{inconclusive |              –
                   insufficient_data}
    continue       open more devices within the cap         –
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_never

from controller.rollouts.core.gates.failures import GateResult, raised_peak
from controller.rollouts.core.gates.verdict import INSUFFICIENT_DATA, judge
from controller.rollouts.core.tally import Outcome, count, outcome
from controller.rollouts.core.types import (
    CLOSING,
    LIVE,
    OPEN_WAVE,
    AbortAsked,
    AssignmentChange,
    AssignmentsChanged,
    Closing,
    Command,
    Decision,
    Event,
    FindMembers,
    Halt,
    MembersFound,
    OpenBucketRange,
    PauseAsked,
    PauseReason,
    Reason,
    RestorePrevious,
    ResumeAsked,
    RolloutState,
    RolloutStatus,
    Started,
    Swept,
    Tick,
    WaveState,
    WaveStatus,
)
from shared.evidence import Verdict
from shared.wire import HaltMode

if TYPE_CHECKING:
    from controller.rollouts.core.types import Rules, WaveSpec
    from shared.ids import RolloutId

FREE_IN_FLIGHT = 2
"""A release that fails everywhere hurts two devices before the first result is in, and the guard stops at two."""
IN_FLIGHT_PER_GOOD = 2


def draft(rollout_id: RolloutId, rules: Rules, waves: tuple[WaveSpec, ...]) -> RolloutState:
    """Return a rollout that waits for `Started`."""
    last = len(waves)
    states = (WaveState(number=n, spec=spec, is_last=n == last) for n, spec in enumerate(waves, start=1))
    return RolloutState(rollout_id=rollout_id, rules=rules, waves=tuple(states))


def decide(state: RolloutState, event: Event) -> Decision:
    """Return what follows from an event: the next state, what to do, and why."""
    match event:
        case Started(at=at):
            return _started(state, at)
        case PauseAsked(at=at):
            return _paused(state, at)
        case ResumeAsked(at=at):
            return _resumed(state, at)
        case AbortAsked(at=at, mode=mode):
            return _aborted(state, at, mode)
        case MembersFound(at=at, wave=number):
            found = replace(state.waves[number - 1], complete=True)
            return _go_on(_with_wave(state, found), at)
        case AssignmentsChanged(at=at):
            return _go_on(_folded(state, event), at)
        case Swept(at=at):
            closing = replace(state.closing, swept=True) if state.closing is not None else None
            return _go_on(replace(state, closing=closing), at)
        case Tick(at=at, waits_for=waits_for):
            return _go_on(state, at, waits_for=waits_for)
        case _:
            assert_never(event)


def in_flight_cap(state: RolloutState) -> int:
    """Return how many devices may be on their way at once; one that failed is not replaced by another."""
    total = state.total
    return FREE_IN_FLIGHT + IN_FLIGHT_PER_GOOD * total.succeeded - total.failed


def worth_telling(before: RolloutState, decision: Decision) -> bool:
    """Say whether a decision did more than move counters and words."""
    after = decision.state
    moved = (before.status, before.pause, [wave.status for wave in before.waves])
    return bool(decision.commands) or moved != (after.status, after.pause, [wave.status for wave in after.waves])


# --- operators ----------------------------------------------------------------------------------


def _started(state: RolloutState, at: datetime) -> Decision:
    if state.waves[0].status is not WaveStatus.PENDING:
        return _refused(state, "already_started", "the rollout has started already")
    return _open_wave(state, state.waves[0], at, Reason(code="started", sentence="wave 1 starts"))


def _paused(state: RolloutState, at: datetime) -> Decision:
    if state.status is not RolloutStatus.RUNNING:
        return _refused(state, "not_running", f"only a running rollout can be paused; this one is {state.status}")
    why = Reason(code="paused", sentence="paused by an operator: `resume` lets it go on")
    held = replace(state, status=RolloutStatus.PAUSED, pause=PauseReason.OPERATOR, paused_at=at)
    return _decided(held, (), why)


def _resumed(state: RolloutState, at: datetime) -> Decision:
    if state.status is not RolloutStatus.PAUSED:
        return _refused(state, "not_paused", f"only a paused rollout can be resumed; this one is {state.status}")
    by_operator = state.pause is PauseReason.OPERATOR
    wave = state.current
    running = replace(state, status=RolloutStatus.RUNNING, pause=None, paused_at=None)
    if wave is None:
        return _go_on(running, at)
    held = judge(running, wave, at=at).verdict is Verdict.INCONCLUSIVE
    if not by_operator and held and wave.settled:
        # Nothing more can come from this wave: going on is the operator's own judgement, and recorded as that.
        why = f"wave {wave.number} accepted by an operator although it is inconclusive: {state.why.sentence}"
        return _wave_passed(running, wave, at, Reason(code="accepted", sentence=why))
    # Held time is not waiting time; after a verdict of inconclusive the wave gets its whole deadline again.
    extra = (at - state.paused_at) if by_operator and state.paused_at else timedelta(0)
    anew = at + timedelta(seconds=state.rules.wave_deadline_s)
    deadline = wave.deadline_at + extra if by_operator and wave.deadline_at else anew
    later = _with_wave(running, replace(wave, deadline_at=deadline, verdict=Verdict.CONTINUE))
    return _go_on(later, at)


def _aborted(state: RolloutState, at: datetime, mode: HaltMode) -> Decision:
    if state.status not in LIVE:
        return _refused(state, "not_live", f"a rollout that is {state.status} cannot be aborted")
    return _halt(state, at, mode, Reason(code="aborted", sentence=f"aborted by an operator ({mode})"))


# --- counters -----------------------------------------------------------------------------------


def _folded(state: RolloutState, event: AssignmentsChanged) -> RolloutState:
    for change in event.changes:
        state = _counted(state, change)
    wave = state.current
    if wave is not None:
        # A device that was removed while it waited is not opened any more.
        requested = min(max(wave.requested - event.opened, 0), wave.tally.waiting)
        state = _with_wave(state, replace(wave, requested=requested))
    return replace(state, guard_peak=raised_peak(state.guard_peak, state.total))


def _counted(state: RolloutState, change: AssignmentChange) -> RolloutState:
    wave = state.waves[change.wave - 1]
    tally = wave.tally.plus(count(change.after))
    if change.before is not None:
        tally = tally.plus(count(change.before), sign=-1)
    # The counter of a closed wave moves on; only its verdict is frozen.
    state = _with_wave(state, replace(wave, tally=tally))
    current = state.current
    # The verdict on a closed wave stands; a device that fails late speaks against the release in the open one.
    if current is not None and current.number != change.wave and _newly_failed(change):
        state = _with_wave(state, replace(current, late_failures=current.late_failures + 1))
    return state


def _newly_failed(change: AssignmentChange) -> bool:
    was = change.before is not None and outcome(change.before) is Outcome.FAILED
    return outcome(change.after) is Outcome.FAILED and not was


# --- going on -----------------------------------------------------------------------------------


def _go_on(state: RolloutState, at: datetime, *, waits_for: tuple[str, ...] = ()) -> Decision:
    """Judge what is open and take the next step."""
    if state.status in CLOSING:
        return _close(state, at, waits_for)
    wave = state.current
    if state.status not in LIVE or wave is None:
        return _decided(state, (), state.why)
    wave = _settle(wave, at)
    state = _with_wave(state, wave)
    result = judge(state, wave, at=at, waits_for=waits_for)
    # Before the pause is looked at: a failing release is stopped though an operator holds the rollout.
    if result.verdict is Verdict.FAIL:
        return _wave_failed(state, wave, at, result)
    if state.status is RolloutStatus.PAUSED:
        if state.pause is not PauseReason.INSUFFICIENT_DATA or result.code == INSUFFICIENT_DATA:
            return _decided(state, (), state.why)
        # It held for want of a result, and now a device is at work on one.
        state = replace(state, status=RolloutStatus.RUNNING, pause=None, paused_at=None)
    match result.verdict:
        case Verdict.PASS:
            return _wave_passed(state, wave, at, Reason(code=result.code, sentence=result.sentence))
        case Verdict.INCONCLUSIVE:
            return _hold(state, wave, at, result)
        case Verdict.CONTINUE:
            return _open_more(state, wave, Reason(code=result.code, sentence=result.sentence))
        case _:
            assert_never(result.verdict)


def _settle(wave: WaveState, at: datetime) -> WaveState:
    if not wave.settled:
        return replace(wave, status=WaveStatus.RUNNING, settled_at=None)
    return replace(wave, status=WaveStatus.BAKING, settled_at=wave.settled_at or at)


def _open_more(state: RolloutState, wave: WaveState, why: Reason) -> Decision:
    """Ask for more devices as results come in, never more than the cap allows."""
    # Over all waves: a straggler of an earlier wave may still activate, and counts against the cap.
    room = in_flight_cap(state) - sum(one.in_flight for one in state.waves)
    limit = min(room, wave.tally.waiting - wave.requested)
    if limit <= 0:
        return _decided(state, (), why)
    asked = replace(wave, requested=wave.requested + limit)
    command = OpenBucketRange(wave=wave.number, lo=wave.lo, hi=wave.spec.hi, limit=limit)
    more = "more " if wave.tally.opened else ""
    told = f"wave {wave.number} tells {limit} {more}device{'s' if limit > 1 else ''}"
    return _decided(_with_wave(state, asked), (command,), Reason(code=why.code, sentence=told))


def _open_wave(state: RolloutState, wave: WaveState, at: datetime, why: Reason) -> Decision:
    opened = replace(wave, status=WaveStatus.RUNNING, deadline_at=at + timedelta(seconds=state.rules.wave_deadline_s))
    limit = None if wave.is_last else wave.spec.size
    command = FindMembers(wave=wave.number, lo=wave.lo, hi=wave.spec.hi, limit=limit)
    return _decided(_with_wave(state, opened), (command,), why)


def _wave_passed(state: RolloutState, wave: WaveState, at: datetime, why: Reason) -> Decision:
    # An accepted wave keeps the verdict that the operator overruled.
    verdict = wave.verdict if why.code == "accepted" else Verdict.PASS
    state = _with_wave(state, replace(wave, status=WaveStatus.SUCCEEDED, verdict=verdict))
    if not wave.is_last:
        following = state.waves[wave.number]
        reason = Reason(code=why.code, sentence=f"{why.sentence}; wave {following.number} starts")
        return _open_wave(state, following, at, reason)
    total = state.total
    away = f", {total.unreachable} not seen yet: they get it when they return" if total.unreachable else ""
    done = f"{why.sentence}; completed: {total.succeeded} of {total.members} devices run the release{away}"
    return _decided(replace(state, status=RolloutStatus.COMPLETED), (), Reason(code="completed", sentence=done))


def _hold(state: RolloutState, wave: WaveState, at: datetime, result: GateResult) -> Decision:
    lack = result.code == INSUFFICIENT_DATA
    pause = PauseReason.INSUFFICIENT_DATA if lack else PauseReason.INCONCLUSIVE
    remedy = "`resume` accepts the wave as it is" if wave.settled else "`resume` gives it more time"
    why = Reason(code=result.code, sentence=f"{result.sentence}. It holds: {remedy}, `abort` ends it")
    held = _with_wave(state, replace(wave, verdict=Verdict.INCONCLUSIVE))
    return _decided(replace(held, status=RolloutStatus.PAUSED, pause=pause, paused_at=at), (), why)


# --- ending -------------------------------------------------------------------------------------


def _wave_failed(state: RolloutState, wave: WaveState, at: datetime, result: GateResult) -> Decision:
    failed = _with_wave(state, replace(wave, status=WaveStatus.FAILED, verdict=Verdict.FAIL, requested=0))
    why = Reason(code=result.code, sentence=f"wave {wave.number} failed: {result.sentence}")
    return _halt(failed, at, state.rules.on_failure, why)


def _halt(state: RolloutState, at: datetime, mode: HaltMode, cause: Reason) -> Decision:
    """Stop the fleet by Pulse at once, then put each device's Desired right."""
    # A wave that failed stays failed; the others never had their chance.
    open_ones = OPEN_WAVE | {WaveStatus.PENDING}
    waves = tuple(
        replace(wave, status=WaveStatus.CANCELED, requested=0) if wave.status in open_ones else wave
        for wave in state.waves
    )
    status = RolloutStatus.ROLLING_BACK if mode is HaltMode.REVERT else RolloutStatus.ABORTING
    closing = Closing(mode=mode, cause=cause, deadline_at=at + timedelta(seconds=state.rules.wave_deadline_s))
    halted = replace(state, status=status, waves=waves, closing=closing, pause=None, paused_at=None)
    word = "every device goes back to what it ran" if mode is HaltMode.REVERT else "nothing of it activates any more"
    why = Reason(code=cause.code, sentence=f"{cause.sentence}; {word}")
    return _decided(halted, (Halt(mode=mode), RestorePrevious(mode=mode)), why)


def _close(state: RolloutState, at: datetime, waits_for: tuple[str, ...]) -> Decision:
    closing, total = state.closing, state.total
    if closing is None:
        return _decided(state, (), state.why)
    left = total.going_back
    revert = closing.mode is HaltMode.REVERT
    ended = RolloutStatus.ROLLED_BACK if revert else RolloutStatus.ABORTED
    if closing.swept and left == 0:
        back = "every device that had it is back" if revert else "nothing of it is on its way any more"
        why = Reason(code=closing.cause.code, sentence=f"{closing.cause.sentence}; {back}")
        return _decided(replace(state, status=ended), (), why)
    names = f" ({', '.join(waits_for)})" if waits_for else ""
    if closing.swept and at >= closing.deadline_at:
        # They are halted all the same, and find the right Desired whenever they return.
        said = f"{closing.cause.sentence}; {left} devices have not confirmed{names}: they find it when they return"
        return _decided(replace(state, status=ended), (), Reason(code="unconfirmed", sentence=said))
    waiting = f"waits for {left} devices to confirm{names}" if closing.swept else "each device is being told"
    return _decided(state, (), Reason(code=closing.cause.code, sentence=f"{closing.cause.sentence}; {waiting}"))


# --- small change -------------------------------------------------------------------------------


def _with_wave(state: RolloutState, wave: WaveState) -> RolloutState:
    place = wave.number - 1
    return replace(state, waves=(*state.waves[:place], wave, *state.waves[place + 1 :]))


def _decided(state: RolloutState, commands: tuple[Command, ...], why: Reason) -> Decision:
    return Decision(state=replace(state, why=why), commands=commands, reason=why)


def _refused(state: RolloutState, code: str, sentence: str) -> Decision:
    return Decision(state=state, commands=(), reason=Reason(code=code, sentence=sentence), refused=True)
