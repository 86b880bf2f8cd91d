"""The checker must see what it is for: each invariant is broken once, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.rollouts.core.invariants import (
    AssignmentFact,
    DeviceEnd,
    DeviceFact,
    InvariantError,
    RolloutWorld,
    check_all,
    check_device_step,
    check_ends,
    check_step,
)
from controller.rollouts.core.tally import AssignmentFacts, Tally, recount
from controller.rollouts.core.types import (
    Decision,
    OpenBucketRange,
    Reason,
    RolloutState,
    RolloutStatus,
    WaveState,
    WaveStatus,
)
from shared.evidence import Verdict
from shared.ids import DeviceId, ReleaseId, RolloutId
from shared.wire import AssignmentStatus
from tests.support.rollout_core import MODEL, CoreRollout

if TYPE_CHECKING:
    from collections.abc import Callable

_WHY = Reason(code="why", sentence="why")
_OPEN = OpenBucketRange(wave=1, lo=0, hi=1, limit=1)


def _running() -> RolloutState:
    return CoreRollout(12).state


def _first(state: RolloutState, **changes: object) -> RolloutState:
    wave: WaveState = replace(state.waves[0], **changes)  # type: ignore[arg-type] # a test names the fields it means
    return replace(state, waves=(wave, *state.waves[1:]))


def _second(state: RolloutState, status: WaveStatus) -> RolloutState:
    return replace(state, waves=(state.waves[0], replace(state.waves[1], status=status), *state.waves[2:]))


_STEPS: list[tuple[str, Callable[[RolloutState], RolloutState]]] = [
    ("rollout running became rolled_back", lambda s: replace(s, status=RolloutStatus.ROLLED_BACK)),
    ("wave 1 running became pending", lambda s: _first(s, status=WaveStatus.PENDING)),
    ("wave 1 lost its membership", lambda s: _first(s, complete=False)),
    ("changed its members", lambda s: _first(s, tally=Tally())),
    ("are open together", lambda s: _second(s, WaveStatus.RUNNING)),
    ("while wave 1 is running", lambda s: _second(s, WaveStatus.SUCCEEDED)),
    ("counts below zero", lambda s: _first(s, tally=replace(s.waves[0].tally, failed=-1, succeeded=1))),
    ("do not add up", lambda s: _first(s, tally=replace(s.waves[0].tally, succeeded=1))),
    ("2 members, 1 planned", lambda s: _first(s, tally=replace(s.waves[0].tally, members=2, succeeded=1))),
    ("told 2 of 1 devices", lambda s: _first(s, tally=replace(s.waves[0].tally, opened=2))),
    ("asked for 1 devices, 0 wait", lambda s: _first(s, requested=1)),
    ("forgot evidence", lambda s: replace(s, guard_peak=-1.0)),
]


@pytest.mark.parametrize(("complaint", "breaking"), _STEPS)
def test_step_that_breaks_an_invariant_is_refused(
    complaint: str, breaking: Callable[[RolloutState], RolloutState]
) -> None:
    before = _running()
    with pytest.raises(InvariantError, match=complaint):
        check_step(before, Decision(state=breaking(before), commands=(), reason=_WHY))


def test_step_that_opens_beyond_the_cap_is_refused() -> None:
    before = _running()
    tally = Tally(members=9, queued=9, opened=9)
    crowded = replace(before, waves=(replace(before.waves[0], tally=tally, is_last=True, complete=False),))
    with pytest.raises(InvariantError, match="9 devices in flight, 2 allowed"):
        check_step(crowded, Decision(state=crowded, commands=(_OPEN,), reason=_WHY))


def test_step_of_a_halted_rollout_that_opens_devices_is_refused() -> None:
    before = replace(_running(), status=RolloutStatus.ROLLING_BACK)
    with pytest.raises(InvariantError, match="rolling_back opens devices"):
        check_step(before, Decision(state=before, commands=(_OPEN,), reason=_WHY))


def test_step_that_changes_the_verdict_on_a_closed_wave_is_refused() -> None:
    before = _first(_running(), status=WaveStatus.SUCCEEDED, verdict=Verdict.PASS)
    after = _first(before, verdict=Verdict.FAIL)
    with pytest.raises(InvariantError, match="verdict on closed wave 1"):
        check_step(before, Decision(state=after, commands=(), reason=_WHY))


def _world(rollout: str, device: str, facts: AssignmentFacts, *, counted: bool = True) -> RolloutWorld:
    state = replace(_running(), rollout_id=RolloutId(rollout))
    state = _first(state, tally=recount([facts]) if counted else Tally())
    fact = AssignmentFact(device=DeviceId(device), wave=1, facts=facts)
    return RolloutWorld(model=MODEL, state=state, assignments=(fact,))


def test_world_with_a_wrong_counter_is_found() -> None:
    with pytest.raises(InvariantError, match="members: 0, really 1"):
        check_all([_world("r-1", "d", AssignmentFacts(opened=True), counted=False)])


def test_world_with_a_device_in_two_open_waves_of_one_model_is_found() -> None:
    facts = AssignmentFacts(opened=True)
    with pytest.raises(InvariantError, match="device d is open in rollouts r-1 and r-2"):
        check_all([_world("r-1", "d", facts), _world("r-2", "d", facts)])


def test_world_with_a_device_in_two_ended_rollouts_is_right() -> None:
    facts = AssignmentFacts(opened=True, status=AssignmentStatus.REMOVED)
    check_all([_world("r-1", "d", facts), _world("r-2", "d", facts)])


_DEVICE = DeviceFact(
    device=DeviceId("d"),
    order=(1, 5),
    held=frozenset({ReleaseId("r1")}),
    verified=frozenset({ReleaseId("r1")}),
    activated=frozenset(),
    pulse_age_s=10.0,
    pulse_max_age_s=900.0,
    halted=frozenset(),
)
_BEGUN = replace(_DEVICE, activated=frozenset({(RolloutId("r"), 1)}))


@pytest.mark.parametrize(
    ("complaint", "after"),
    [
        ("fell from", replace(_DEVICE, order=(1, 4))),
        ("holds unverified", replace(_DEVICE, held=frozenset({ReleaseId("r2")}))),
        ("Pulse of age None", replace(_BEGUN, pulse_age_s=None)),
        ("Pulse of age 901", replace(_BEGUN, pulse_age_s=901.0)),
        ("although its Pulse halts it", replace(_BEGUN, halted=frozenset({RolloutId("r")}))),
    ],
)
def test_device_step_that_breaks_an_invariant_is_found(complaint: str, after: DeviceFact) -> None:
    with pytest.raises(InvariantError, match=complaint):
        check_device_step(_DEVICE, after)


def test_device_that_activates_under_a_fresh_pulse_is_right() -> None:
    check_device_step(_DEVICE, _BEGUN)


def test_end_of_a_device_must_be_as_desired_or_named() -> None:
    end = DeviceEnd(device=DeviceId("d"), desired=ReleaseId("r2"), running=ReleaseId("r1"), named="")
    with pytest.raises(InvariantError, match="nothing says why"):
        check_ends([end])
    check_ends([replace(end, named="failed: disk"), replace(end, running=ReleaseId("r2"))])
