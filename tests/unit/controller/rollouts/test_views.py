"""What the API shows of a rollout: every device in exactly one column, and why it is not further."""

from __future__ import annotations

import msgspec
import pytest

from controller.rollouts.core.types import Command, FindMembers, Halt, OpenBucketRange, PauseAsked, RestorePrevious
from controller.rollouts.store import Stored
from controller.rollouts.views import assignment_view, rollout_view
from controller.rollouts.work import FindWork, OpenWork, SweepWork, Work, read_work, work_of
from shared.ids import DeviceId, RolloutId
from shared.wire import AssignmentPhase, AssignmentStatus, HaltMode, PairedCounts
from tests.support.assignments import NOW, OLD, SPEC, assignment
from tests.support.rollout_core import CoreRollout

_S = AssignmentStatus


def _mixed() -> CoreRollout:
    """A rollout whose first wave holds one device of many kinds."""
    rollout = CoreRollout(40, waves=("100%",))
    for status in (_S.SUCCEEDED, _S.SUCCEEDED, _S.SUCCEEDED, _S.IN_PROGRESS):
        rollout.report(rollout.told()[-1], status)
    rollout.report(rollout.told()[0], _S.REJECTED, reason="no_fitting_artifact: memory", activated=False)
    rollout.change(rollout.told()[0], unreachable=True)
    rollout.dispatch()
    return rollout


def test_wave_shows_every_device_in_exactly_one_column() -> None:
    (wave,) = rollout_view(Stored(spec=SPEC, state=_mixed().state)).waves
    columns = (wave.waiting, wave.queued, wave.in_progress, wave.undecided, wave.succeeded, wave.failed, wave.excused)
    assert sum(columns) == wave.assigned == 40


def test_wave_shows_who_is_excused_and_who_of_them_is_away() -> None:
    (wave,) = rollout_view(Stored(spec=SPEC, state=_mixed().state)).waves
    assert (wave.excused, wave.unreachable) == (2, 1)


def test_rollout_paused_says_for_what() -> None:
    rollout = CoreRollout(4)
    assert rollout_view(Stored(spec=SPEC, state=rollout.state)).paused_for == ""
    rollout.send(PauseAsked(at=rollout.now))
    view = rollout_view(Stored(spec=SPEC, state=rollout.state))
    assert (view.state, view.paused_for, view.reason) == ("paused", "operator", "paused")


def test_rollout_shows_how_many_devices_bore_the_release() -> None:
    rollout = CoreRollout(40, waves=("100%",))
    rollout.report(rollout.told()[0], _S.SUCCEEDED)
    rollout.report(rollout.told()[0], _S.ROLLED_BACK, reason="too_slow")
    assert rollout_view(Stored(spec=SPEC, state=rollout.state)).devices_exposed == 2


def test_wave_not_begun_says_which_gates_will_decide_in_it() -> None:
    view = rollout_view(Stored(spec=SPEC, state=CoreRollout(40, waves=("1", "100%")).state))
    decides = [[gate.gate for gate in wave.gates if gate.can_decide] for wave in view.waves]
    assert "fleet_paired" not in decides[0]
    assert "fleet_paired" in decides[1]


def test_rollout_stored_is_shown_as_before() -> None:
    stored = Stored(spec=SPEC, state=_mixed().state)
    assert rollout_view(msgspec.json.decode(msgspec.json.encode(stored), type=Stored)) == rollout_view(stored)


def test_assignment_shows_its_evidence_and_what_it_would_go_back_to() -> None:
    one = assignment(
        status=_S.IN_PROGRESS, phase=AssignmentPhase.SHADOW, paired=PairedCounts(pairs=40, flips=3, slower=2)
    )
    view = assignment_view(one)
    assert (view.status, view.phase, view.pairs, view.flips, view.slower) == ("in_progress", "shadow", 40, 3, 2)
    assert (view.previous_release_id, view.told_at, view.site) == (OLD, NOW, "north")


def test_assignment_waiting_was_told_nothing() -> None:
    assert assignment_view(assignment(opened_at=None)).told_at is None


_R = RolloutId("r-1")


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (FindMembers(wave=2, lo=1, hi=9, limit=None), FindWork(rollout_id=_R, wave=2, lo=1, hi=9, limit=None)),
        (OpenBucketRange(wave=2, lo=1, hi=9, limit=3), OpenWork(rollout_id=_R, wave=2, lo=1, hi=9, limit=3)),
        (RestorePrevious(mode=HaltMode.STOP), SweepWork(rollout_id=_R, mode=HaltMode.STOP)),
    ],
)
def test_command_is_left_for_dispatch_and_read_back(command: Command, work: Work) -> None:
    left = work_of(CoreRollout(2).state, command)
    assert left == work
    assert read_work(msgspec.json.encode(left)) == work


def test_halt_is_not_left_for_later() -> None:
    assert work_of(CoreRollout(2).state, Halt(mode=HaltMode.REVERT)) is None


def test_sweep_interrupted_goes_on_behind_the_last_device() -> None:
    half = SweepWork(rollout_id=_R, mode=HaltMode.REVERT, after=DeviceId("d-7"))
    assert read_work(msgspec.json.encode(half)) == half


def test_work_of_a_kind_that_nobody_left_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'erase'"):
        read_work(b'{"type": "erase", "rollout_id": "r-1"}')
