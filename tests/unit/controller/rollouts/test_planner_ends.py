"""What the planner does after a halt, after the end, and when somebody asks for what cannot be."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.rollouts.core.planner import decide, draft, in_flight_cap, worth_telling
from controller.rollouts.core.types import (
    AbortAsked,
    Event,
    FindMembers,
    Halt,
    MembersFound,
    PauseAsked,
    PauseReason,
    RestorePrevious,
    ResumeAsked,
    RolloutState,
    RolloutStatus,
    Started,
    Swept,
    Tick,
    WaveStatus,
)
from controller.rollouts.core.waves import cut_waves, parse_sizes
from shared.ids import RolloutId
from shared.wire import AssignmentStatus, HaltMode
from tests.support.rollout_core import RULES, START, CoreRollout

_S = AssignmentStatus


def _draft() -> RolloutState:
    return draft(RolloutId("r"), RULES, cut_waves(parse_sizes(("2", "100%")), [10, 20, 30, 40]))


def _completed() -> CoreRollout:
    rollout = CoreRollout(2, waves=("100%",))
    rollout.succeed_all()
    rollout.tick(61)
    return rollout


def _aborted(mode: HaltMode = HaltMode.REVERT) -> CoreRollout:
    rollout = CoreRollout(2, waves=("100%",))
    rollout.report(rollout.told()[0], _S.SUCCEEDED)
    rollout.send(AbortAsked(at=rollout.now, mode=mode))
    return rollout


def test_draft_waits_for_its_start() -> None:
    state = _draft()
    assert [wave.status for wave in state.waves] == [WaveStatus.PENDING, WaveStatus.PENDING]
    assert [wave.is_last for wave in state.waves] == [False, True]
    assert state.why.code == "created"


def test_start_looks_for_the_members_of_the_first_wave_only() -> None:
    decision = decide(_draft(), Started(at=START))
    assert decision.commands == (FindMembers(wave=1, lo=0, hi=30, limit=2),)
    assert decision.state.waves[0].deadline_at == START + timedelta(hours=1)


def test_last_wave_takes_every_bucket_and_any_number() -> None:
    rollout = CoreRollout(4, waves=("2", "100%"))
    rollout.succeed_all()
    rollout.now += timedelta(seconds=61)
    decision = rollout.send(Tick(at=rollout.now))
    (command,) = decision.commands
    assert isinstance(command, FindMembers)
    assert (command.lo, command.limit) == (0, None)


def test_tick_before_the_start_decides_nothing() -> None:
    decision = decide(_draft(), Tick(at=START))
    assert (decision.commands, decision.state) == ((), _draft())


@pytest.mark.parametrize(
    "event",
    [
        Tick(at=START + timedelta(days=9)),
        Swept(at=START + timedelta(days=9)),
        MembersFound(at=START + timedelta(days=9), wave=1),
    ],
)
def test_completed_rollout_asks_for_nothing_any_more(event: Event) -> None:
    rollout = _completed()
    decision = rollout.send(event)
    assert decision.commands == ()
    assert decision.state.status is RolloutStatus.COMPLETED


@pytest.mark.parametrize(
    "event", [PauseAsked(at=START), ResumeAsked(at=START), AbortAsked(at=START, mode=HaltMode.STOP)]
)
def test_completed_rollout_refuses_every_order(event: Event) -> None:
    state = _completed().state
    decision = decide(state, event)
    assert decision.refused
    assert decision.state == state


def test_device_that_fails_after_the_end_is_counted_and_changes_no_verdict() -> None:
    rollout = _completed()
    device = next(iter(rollout.members))
    rollout.change(device, status=_S.ROLLED_BACK, reason="too_slow")
    assert rollout.state.status is RolloutStatus.COMPLETED
    assert rollout.state.total.failed == 1
    assert rollout.halts == []


def test_device_that_returns_after_the_end_is_counted() -> None:
    rollout = CoreRollout(2, waves=("100%",))
    away, other = rollout.told()
    rollout.change(away, unreachable=True)
    rollout.report(other, _S.SUCCEEDED)
    rollout.tick(61)
    assert "1 not seen yet: they get it when they return" in rollout.state.why.sentence
    rollout.report(away, _S.SUCCEEDED)
    assert rollout.state.total.succeeded == 2


@pytest.mark.parametrize("mode", list(HaltMode))
def test_abort_halts_by_pulse_before_it_restores(mode: HaltMode) -> None:
    rollout = _aborted(mode)
    assert rollout.decisions[-1].commands == (Halt(mode=mode), RestorePrevious(mode=mode))


def test_abort_of_a_paused_rollout_is_allowed() -> None:
    rollout = CoreRollout(4)
    rollout.send(PauseAsked(at=rollout.now))
    rollout.send(AbortAsked(at=rollout.now, mode=HaltMode.STOP))
    assert (rollout.state.status, rollout.state.pause) == (RolloutStatus.ABORTING, None)


def test_halt_does_not_end_before_every_device_was_told() -> None:
    rollout = _aborted()
    assert rollout.send(Tick(at=rollout.now)).state.status is RolloutStatus.ROLLING_BACK
    assert "each device is being told" in rollout.state.why.sentence


def test_halt_past_its_deadline_does_not_end_before_every_device_was_told() -> None:
    rollout = _aborted()
    late = rollout.send(Tick(at=rollout.now + timedelta(days=1)))
    assert late.state.status is RolloutStatus.ROLLING_BACK


def test_halt_names_who_has_not_confirmed() -> None:
    rollout = _aborted()
    rollout.dispatch()
    waiting = rollout.send(Tick(at=rollout.now, waits_for=("d-000", "d-001")))
    assert "waits for 2 devices to confirm (d-000, d-001)" in waiting.reason.sentence
    ended = rollout.send(Tick(at=rollout.now + timedelta(days=1), waits_for=("d-000",)))
    assert "have not confirmed (d-000): they find it when they return" in ended.reason.sentence


def test_halt_keeps_the_reason_that_caused_it() -> None:
    rollout = CoreRollout(3)
    rollout.report(rollout.told()[0], _S.ROLLED_BACK, reason="too_slow")
    rollout.come_back()
    assert rollout.state.why.code == "device_failed"


def test_halt_cancels_waves_that_did_not_begin_and_keeps_those_that_passed() -> None:
    rollout = CoreRollout(12)
    rollout.succeed_all()
    rollout.tick(61)
    rollout.send(AbortAsked(at=rollout.now, mode=HaltMode.STOP))
    assert [wave.status for wave in rollout.state.waves] == [
        WaveStatus.SUCCEEDED,
        WaveStatus.CANCELED,
        WaveStatus.CANCELED,
    ]


def test_late_failures_of_closed_waves_trip_the_guard_in_the_open_one() -> None:
    rollout = CoreRollout(30, waves=("2", "100%"))
    rollout.succeed_all()
    rollout.tick(61)
    for device in [one for one, member in rollout.members.items() if member.wave == 1]:
        rollout.change(device, status=_S.ROLLED_BACK, reason="candidate_errors")
    assert rollout.state.status is RolloutStatus.ROLLING_BACK


def test_answer_to_an_old_search_does_not_hurt_a_halted_rollout() -> None:
    rollout = _aborted()
    decision = rollout.send(MembersFound(at=rollout.now, wave=1))
    assert decision.commands == ()


def test_sweep_without_a_halt_changes_nothing() -> None:
    rollout = CoreRollout(4)
    before = rollout.state.status
    assert rollout.send(Swept(at=rollout.now)).state.status is before


def test_pause_of_a_paused_rollout_is_refused_and_keeps_its_cause() -> None:
    rollout = CoreRollout(4)
    rollout.tick(3601)
    assert rollout.send(PauseAsked(at=rollout.now)).refused
    assert rollout.state.pause is PauseReason.INCONCLUSIVE


def test_rollout_paused_by_an_operator_is_not_woken_by_results() -> None:
    rollout = CoreRollout(4)
    device = rollout.told()[0]
    rollout.send(PauseAsked(at=rollout.now))
    rollout.report(device, _S.SUCCEEDED)
    rollout.tick(10_000)
    assert rollout.state.pause is PauseReason.OPERATOR


@pytest.mark.parametrize(
    ("succeeded", "failed", "cap"),
    [(0, 0, 2), (1, 0, 4), (5, 0, 12), (0, 1, 1), (0, 2, 0), (0, 5, -3), (3, 1, 7)],
)
def test_cap_grows_with_successes_and_shrinks_with_failures(succeeded: int, failed: int, cap: int) -> None:
    state = _draft()
    tally = replace(state.waves[0].tally, members=succeeded + failed, succeeded=succeeded, failed=failed)
    assert in_flight_cap(replace(state, waves=(replace(state.waves[0], tally=tally), state.waves[1]))) == cap


def test_decision_that_only_counts_is_not_worth_telling() -> None:
    rollout = CoreRollout(4)
    before = rollout.state
    assert not worth_telling(before, rollout.send(Tick(at=rollout.now, waits_for=("d-000",))))


@pytest.mark.parametrize("event", [PauseAsked(at=START), AbortAsked(at=START, mode=HaltMode.STOP)])
def test_decision_that_moves_the_rollout_is_worth_telling(event: Event) -> None:
    before = CoreRollout(4).state
    assert worth_telling(before, decide(before, event))


def test_time_runs_out_only_while_a_deadline_runs() -> None:
    rollout = CoreRollout(4)
    assert rollout.state.waiting_until == START + timedelta(hours=1)
    rollout.send(PauseAsked(at=rollout.now))
    assert rollout.state.waiting_until is None
    rollout.send(AbortAsked(at=rollout.now + timedelta(hours=2), mode=HaltMode.STOP))
    assert rollout.state.waiting_until == START + timedelta(hours=3)
    rollout.dispatch()
    rollout.come_back()
    assert rollout.state.waiting_until is None
