"""The planner under anything that can happen, in any order: every step is checked, and the counters recounted."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controller.rollouts.core.types import (
    CLOSING,
    ENDED,
    LIVE,
    AbortAsked,
    PauseAsked,
    ResumeAsked,
)
from shared.ids import DeviceId
from shared.wire import TERMINAL, AssignmentStatus, HaltMode
from tests.support.rollout_core import CoreRollout

_REASONS = ["", "too_slow", "halted", "blacklisted", "inconclusive: 3", "no_fitting_artifact: arch"]
_WAVES = [("1", "25%", "100%"), ("100%",), ("2", "100%"), ("50%", "100%")]


class PlannerMachine(RuleBasedStateMachine):
    """One rollout, its dispatch delayed at will, its devices doing what they like."""

    @initialize(devices=st.integers(1, 30), waves=st.sampled_from(_WAVES))
    def start(self, devices: int, waves: tuple[str, ...]) -> None:
        self.rollout = CoreRollout(devices, waves=waves)
        self.halted = False

    @rule(
        pick=st.integers(0, 1000),
        status=st.sampled_from(AssignmentStatus),
        reason=st.sampled_from(_REASONS),
        activated=st.booleans(),
        flips=st.none() | st.integers(0, 1_000_000),
    )
    def report(self, pick: int, status: AssignmentStatus, reason: str, activated: bool, flips: int | None) -> None:
        device = self._pick(pick)
        if device is not None:
            if flips is not None and self.rollout.members[device].facts.opened:
                self.rollout.change(device, flip_ppm=flips)
            self.rollout.report(device, status, reason=reason, activated=activated)

    @rule(pick=st.integers(0, 1000))
    def succeed(self, pick: int) -> None:
        told = self.rollout.told()
        if told:
            self.rollout.report(told[pick % len(told)], AssignmentStatus.SUCCEEDED)

    @rule(pick=st.integers(0, 1000))
    def go_silent(self, pick: int) -> None:
        device = self._pick(pick)
        if device is not None:
            facts = self.rollout.members[device].facts
            if facts.opened and facts.status is AssignmentStatus.QUEUED:
                self.rollout.change(device, unreachable=True)

    @rule(pick=st.integers(0, 1000))
    def remove(self, pick: int) -> None:
        device = self._pick(pick)
        if device is not None and self.rollout.members[device].facts.status not in TERMINAL:
            self.rollout.change(device, status=AssignmentStatus.REMOVED, reason="removed", going_back=False)

    @rule(name=st.integers(0, 50))
    def join(self, name: int) -> None:
        device = DeviceId(f"late-{name}")
        if device not in self.rollout.cohort:
            self.rollout.cohort.append(device)

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0, 3601.0]))
    def pass_time(self, seconds: float) -> None:
        self.rollout.tick(seconds)

    @rule()
    def pause(self) -> None:
        self.rollout.send(PauseAsked(at=self.rollout.now))

    @rule()
    def resume(self) -> None:
        self.rollout.send(ResumeAsked(at=self.rollout.now))

    @rule()
    def dispatch(self) -> None:
        self.rollout.dispatch()

    @rule(mode=st.sampled_from(HaltMode))
    def abort(self, mode: HaltMode) -> None:
        self.rollout.send(AbortAsked(at=self.rollout.now, mode=mode))

    @precondition(lambda self: self.rollout.state.status in CLOSING)
    @rule()
    def come_back(self) -> None:
        self.rollout.dispatch()
        self.rollout.come_back()
        assert self.rollout.state.status in ENDED

    @invariant()
    def counters_are_true(self) -> None:
        self.rollout.check()

    @invariant()
    def a_halt_is_final(self) -> None:
        live = self.rollout.state.status in LIVE
        assert not (self.halted and live)
        self.halted = self.halted or self.rollout.state.closing is not None

    @invariant()
    def it_can_say_why(self) -> None:
        assert self.rollout.state.why.code
        assert self.rollout.state.why.sentence

    def _pick(self, pick: int) -> DeviceId | None:
        devices = sorted(self.rollout.members)
        return devices[pick % len(devices)] if devices else None


TestPlannerMachine = PlannerMachine.TestCase
TestPlannerMachine.settings = settings(max_examples=60, stateful_step_count=40)
