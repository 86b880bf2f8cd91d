"""What the planner decides, situation by situation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.rollouts.core.types import (
    AbortAsked,
    OpenBucketRange,
    PauseAsked,
    PauseReason,
    ResumeAsked,
    RolloutStatus,
    Started,
    WaveStatus,
)
from shared.evidence import Verdict
from shared.wire import AssignmentStatus, HaltMode
from tests.support.rollout_core import RULES, CoreRollout

_S = AssignmentStatus


def _statuses(rollout: CoreRollout) -> list[str]:
    return [wave.status.value for wave in rollout.state.waves]


def _first_wave_done(devices: int = 12) -> CoreRollout:
    rollout = CoreRollout(devices)
    rollout.succeed_all()
    rollout.tick(61)
    return rollout


def test_rollout_started_tells_the_first_wave_only() -> None:
    rollout = CoreRollout(12)
    assert len(rollout.told()) == 1
    assert _statuses(rollout) == ["running", "pending", "pending"]
    assert "1 device told but not started" in rollout.state.why.sentence


def test_rollout_started_twice_is_refused() -> None:
    rollout = CoreRollout(12)
    assert rollout.send(Started(at=rollout.now)).refused


def test_wave_with_all_results_soaks_before_it_passes() -> None:
    rollout = CoreRollout(12)
    rollout.succeed_all()
    assert _statuses(rollout)[0] == "baking"
    assert rollout.tick(59).reason.code == "soaking"
    rollout.tick(2)
    assert _statuses(rollout) == ["succeeded", "running", "pending"]
    assert rollout.state.waves[0].verdict is Verdict.PASS


def test_rollout_with_every_wave_passed_completes() -> None:
    rollout = CoreRollout(12)
    for _ in range(3):
        rollout.succeed_all()
        rollout.tick(61)
    assert rollout.state.status is RolloutStatus.COMPLETED
    assert "12 of 12" in rollout.state.why.sentence
    rollout.check()


def test_wave_opens_no_more_than_the_cap_until_results_come() -> None:
    rollout = CoreRollout(100, waves=("100%",))
    assert len(rollout.told()) == 2
    rollout.report(rollout.told()[0], _S.SUCCEEDED)
    assert len(rollout.told()) == 4
    rollout.report(rollout.told()[0], _S.SUCCEEDED)
    assert len(rollout.told()) == 6


def test_wave_device_that_is_not_seen_does_not_hold_the_others_up() -> None:
    rollout = CoreRollout(100, waves=("100%",))
    for device in rollout.told():
        rollout.change(device, unreachable=True)
        rollout.dispatch()
    assert len(rollout.told()) == 2


@pytest.mark.parametrize("status", [_S.ROLLED_BACK, _S.FAILED, _S.TIMED_OUT])
def test_wave_of_one_device_that_fails_reverts_the_rollout(status: AssignmentStatus) -> None:
    rollout = CoreRollout(12)
    rollout.report(rollout.told()[0], status, reason="too_many_flips: 40 of 60")
    assert rollout.state.status is RolloutStatus.ROLLED_BACK
    assert _statuses(rollout) == ["failed", "canceled", "canceled"]
    assert rollout.halts == [HaltMode.REVERT]
    assert "too small to excuse any" in rollout.state.why.sentence


def test_failed_wave_with_on_failure_stop_aborts_without_reverting() -> None:
    rollout = CoreRollout(12, rules=replace(RULES, on_failure=HaltMode.STOP))
    rollout.report(rollout.told()[0], _S.ROLLED_BACK)
    rollout.tick()
    assert rollout.halts == [HaltMode.STOP]
    assert rollout.state.status is RolloutStatus.ABORTED


def test_large_wave_with_one_failure_in_ten_goes_on() -> None:
    rollout = CoreRollout(10, waves=("100%",))
    rollout.report(rollout.told()[0], _S.SUCCEEDED)
    rollout.report(rollout.told()[0], _S.ROLLED_BACK, reason="too_slow")
    rollout.succeed_all()
    assert _statuses(rollout) == ["baking"]
    rollout.tick(61)
    assert rollout.state.status is RolloutStatus.COMPLETED


def test_large_wave_with_more_failures_than_allowed_holds_for_a_person() -> None:
    rollout = CoreRollout(40, waves=("100%",))
    for _ in range(8):
        rollout.report(rollout.told()[0], _S.SUCCEEDED)
    rollout.report(rollout.told()[0], _S.ROLLED_BACK)
    rollout.report(rollout.told()[0], _S.ROLLED_BACK)
    rollout.succeed_all()
    assert rollout.state.pause is PauseReason.INCONCLUSIVE
    assert rollout.state.why.code == "too_many_failures"


def test_large_wave_whose_first_two_devices_fail_is_stopped_by_the_guard() -> None:
    rollout = CoreRollout(100, waves=("100%",))
    for device in rollout.told():
        rollout.report(device, _S.ROLLED_BACK)
    assert rollout.state.status is RolloutStatus.ROLLED_BACK
    assert rollout.state.why.code == "failure_guard"
    assert rollout.state.total.opened == 2


def test_late_failure_of_a_closed_wave_fails_the_open_one() -> None:
    rollout = CoreRollout(12, waves=("2", "100%"))
    first, second = rollout.told()
    rollout.change(first, unreachable=True)
    rollout.report(second, _S.SUCCEEDED)
    rollout.tick(61)
    assert _statuses(rollout) == ["succeeded", "running"]
    rollout.report(first, _S.ROLLED_BACK)
    # 10 devices in the open wave may lose one; the closed wave keeps its verdict.
    assert rollout.state.waves[0].verdict is Verdict.PASS
    assert rollout.state.waves[1].late_failures == 1


def test_wave_at_its_deadline_with_an_undecided_device_holds() -> None:
    rollout = CoreRollout(12)
    rollout.report(rollout.told()[0], _S.IN_PROGRESS, reason="inconclusive: 3 pairs in 900 s")
    assert rollout.tick(3599).reason.code == "waiting"
    rollout.tick(2)
    assert rollout.state.status is RolloutStatus.PAUSED
    assert rollout.state.pause is PauseReason.INCONCLUSIVE
    assert "too few requests" in rollout.state.why.sentence
    assert "`resume` gives it more time" in rollout.state.why.sentence


def test_rollout_held_by_its_deadline_stays_held_when_results_come_late() -> None:
    rollout = CoreRollout(12)
    device = rollout.told()[0]
    rollout.tick(3601)
    rollout.report(device, _S.SUCCEEDED)
    rollout.tick(3600)
    assert rollout.state.status is RolloutStatus.PAUSED
    rollout.send(ResumeAsked(at=rollout.now))
    rollout.dispatch()
    assert _statuses(rollout)[:2] == ["succeeded", "running"]
    assert rollout.state.waves[0].verdict is Verdict.PASS


def test_resume_after_a_deadline_gives_the_wave_its_whole_time_again() -> None:
    rollout = CoreRollout(12)
    rollout.tick(3601)
    rollout.send(ResumeAsked(at=rollout.now))
    assert rollout.tick(3599).reason.code == "waiting"
    rollout.tick(2)
    assert rollout.state.pause is PauseReason.INCONCLUSIVE


def test_wave_with_nobody_seen_holds_for_want_of_data_and_goes_on_by_itself() -> None:
    rollout = CoreRollout(12)
    device = rollout.told()[0]
    rollout.change(device, unreachable=True)
    assert rollout.state.pause is PauseReason.INSUFFICIENT_DATA
    rollout.report(device, _S.IN_PROGRESS)
    assert rollout.state.status is RolloutStatus.RUNNING


def test_wave_whose_devices_cannot_take_the_release_never_passes_by_itself() -> None:
    rollout = CoreRollout(12)
    rollout.report(rollout.told()[0], _S.REJECTED, reason="no_fitting_artifact: memory", activated=False)
    rollout.tick(10_000)
    assert rollout.state.pause is PauseReason.INSUFFICIENT_DATA
    assert "1 not able to take it" in rollout.state.why.sentence


def test_wave_accepted_by_an_operator_keeps_its_verdict() -> None:
    rollout = CoreRollout(12)
    rollout.report(rollout.told()[0], _S.REJECTED, reason="no_fitting_artifact: memory", activated=False)
    decision = rollout.send(ResumeAsked(at=rollout.now))
    rollout.dispatch()
    assert decision.reason.code == "accepted"
    assert rollout.state.waves[0].status is WaveStatus.SUCCEEDED
    assert rollout.state.waves[0].verdict is Verdict.INCONCLUSIVE
    assert _statuses(rollout)[1] == "running"


def test_device_back_during_the_soak_is_waited_for_again() -> None:
    rollout = CoreRollout(12, waves=("2", "100%"))
    first, second = rollout.told()
    rollout.change(first, unreachable=True)
    rollout.report(second, _S.SUCCEEDED)
    assert _statuses(rollout)[0] == "baking"
    rollout.report(first, _S.IN_PROGRESS)
    assert _statuses(rollout)[0] == "running"
    rollout.report(first, _S.SUCCEEDED)
    assert rollout.tick(59).reason.code == "soaking"


def test_pause_opens_nothing_and_resume_goes_on() -> None:
    rollout = CoreRollout(100, waves=("100%",))
    rollout.send(PauseAsked(at=rollout.now))
    for device in rollout.told():
        rollout.report(device, _S.SUCCEEDED)
    assert rollout.told() == []
    rollout.send(ResumeAsked(at=rollout.now))
    rollout.dispatch()
    assert len(rollout.told()) == 6


def test_paused_time_is_not_counted_against_the_deadline() -> None:
    rollout = CoreRollout(12)
    rollout.tick(3000)
    rollout.send(PauseAsked(at=rollout.now))
    rollout.tick(10_000)
    rollout.send(ResumeAsked(at=rollout.now))
    assert rollout.tick(599).reason.code == "waiting"
    rollout.tick(2)
    assert rollout.state.pause is PauseReason.INCONCLUSIVE


def test_failure_while_paused_still_reverts() -> None:
    rollout = CoreRollout(12)
    rollout.send(PauseAsked(at=rollout.now))
    rollout.report(rollout.told()[0], _S.ROLLED_BACK)
    assert rollout.state.status is RolloutStatus.ROLLED_BACK


@pytest.mark.parametrize(
    ("mode", "during", "after"),
    [
        (HaltMode.REVERT, RolloutStatus.ROLLING_BACK, RolloutStatus.ROLLED_BACK),
        (HaltMode.STOP, RolloutStatus.ABORTING, RolloutStatus.ABORTED),
    ],
)
def test_abort_ends_when_every_device_has_confirmed(
    mode: HaltMode, during: RolloutStatus, after: RolloutStatus
) -> None:
    rollout = _first_wave_done()
    rollout.send(AbortAsked(at=rollout.now, mode=mode))
    rollout.dispatch()
    assert rollout.state.status is during
    rollout.come_back()
    assert rollout.state.status is after
    assert rollout.send(AbortAsked(at=rollout.now, mode=mode)).refused
    rollout.check()


def test_rollback_at_its_deadline_ends_and_names_who_has_not_confirmed() -> None:
    rollout = _first_wave_done()
    rollout.send(AbortAsked(at=rollout.now, mode=HaltMode.REVERT))
    rollout.dispatch()
    rollout.tick(3601)
    assert rollout.state.status is RolloutStatus.ROLLED_BACK
    assert rollout.state.why.code == "unconfirmed"


def test_resume_of_a_halted_rollout_is_refused() -> None:
    rollout = CoreRollout(12)
    rollout.send(AbortAsked(at=rollout.now, mode=HaltMode.REVERT))
    assert rollout.send(ResumeAsked(at=rollout.now)).refused
    assert rollout.send(PauseAsked(at=rollout.now)).refused


def test_fleet_gate_on_ten_devices_with_many_flips_fails_the_wave() -> None:
    rollout = CoreRollout(30, waves=("100%",))
    for n in range(12):
        device = rollout.told()[0]
        rollout.change(device, flip_ppm=250_000 + 5_000 * (n % 3))
        rollout.report(device, _S.SUCCEEDED)
        if rollout.state.status is not RolloutStatus.RUNNING:
            break
    assert rollout.state.why.code == "fleet_paired"
    assert rollout.state.status is RolloutStatus.ROLLING_BACK


def test_fleet_gate_without_a_decision_at_the_end_holds() -> None:
    rollout = CoreRollout(12, waves=("100%",))
    for n in range(12):
        device = rollout.told()[0]
        rollout.change(device, flip_ppm=90_000 + 40_000 * (n % 2))
        rollout.report(device, _S.SUCCEEDED)
    rollout.tick(61)
    assert rollout.state.pause is PauseReason.INCONCLUSIVE
    assert rollout.state.why.code == "fleet_paired"


def test_last_wave_with_nobody_left_ends_the_rollout() -> None:
    rollout = CoreRollout(4, waves=("2", "100%"))
    rollout.cohort = [device for device in rollout.cohort if device in rollout.members]
    rollout.succeed_all()
    rollout.tick(61)
    assert rollout.state.status is RolloutStatus.COMPLETED
    assert "no device left" in rollout.state.why.sentence


def test_late_joiner_falls_into_the_last_wave() -> None:
    rollout = CoreRollout(8, waves=("2", "100%"))
    rollout.cohort += [type(rollout.cohort[0])(f"new-{n}") for n in range(5)]
    rollout.succeed_all()
    rollout.tick(61)
    rollout.succeed_all()
    rollout.tick(61)
    assert rollout.state.waves[1].tally.members == 11
    assert rollout.state.status is RolloutStatus.COMPLETED


def test_device_removed_while_it_waits_is_not_opened() -> None:
    rollout = CoreRollout(9, waves=("100%",))
    waiting = next(device for device, one in rollout.members.items() if not one.facts.opened)
    rollout.change(waiting, status=_S.REMOVED, reason="removed")
    rollout.succeed_all()
    rollout.tick(61)
    assert rollout.state.status is RolloutStatus.COMPLETED
    assert not any(isinstance(one, OpenBucketRange) for one in rollout.queue)
    rollout.check()
