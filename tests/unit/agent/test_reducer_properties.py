"""What must hold in every life of a device, whatever happens in whatever order."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.core import events as ev
from agent.core.events import FetchProblem
from agent.core.state import WATCHED, AgentState, Phase, key_of
from shared.ids import BootId, ReleaseId
from shared.wire import TERMINAL, AssignmentStatus, PairedCounts
from tests.support.device_core import DIRECTOR, Bench, release

if TYPE_CHECKING:
    from agent.core.state import AssignmentKey
    from shared.wire import Desired, Pulse

NAMES = st.sampled_from(["v1", "v2", "v3"])
ROLLOUTS = st.sampled_from([f"r-{number}" for number in range(12)])
COUNTS = st.sampled_from(
    [
        PairedCounts(),
        PairedCounts(pairs=10),
        PairedCounts(pairs=200, flips=2),
        PairedCounts(pairs=200, flips=150),
        PairedCounts(pairs=200, slower=190),
        PairedCounts(pairs=3, candidate_errors=1),
    ]
)
MAX_AGE = timedelta(seconds=900)


class DeviceLife(RuleBasedStateMachine):
    """One model on one device, and an observer who keeps his own books."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.halted: dict[str, str] = {}
        self.on_disk: set[str] = set()
        self.tried: set[str] = set()
        self.ended: dict[AssignmentKey, AssignmentStatus] = {}
        self.fresh_until = self.bench.at - timedelta(days=1)
        self.lives = 0
        self.sent: list[Desired] = []
        self.pulses: list[Pulse] = []
        self.place = (0, 0)

    @initialize()
    def start_first(self) -> None:
        self.bench.start()

    # --- documents ---

    @rule(name=NAMES, rollout=ROLLOUTS, attempt=st.integers(1, 2), override=st.booleans(), chance=st.integers(0, 15))
    def desire(self, name: str, rollout: str, attempt: int, *, override: bool, chance: int) -> None:
        wanted = release(name, rollout=rollout, attempt=attempt)
        models = (wanted,) if chance else ()
        self.bench.generation += 1
        desired = self.bench.desired(*models, overrides=(wanted.artifact.sha256,) if override else ())
        self.sent.append(desired)
        self.bench.feed(ev.DesiredReceived(at=self.bench.at, desired=desired, key_id=DIRECTOR))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def replay_desired(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.sent))
        self.bench.feed(ev.DesiredReceived(at=self.bench.at, desired=old, key_id=DIRECTOR))

    @rule()
    def pulse(self) -> None:
        self.bench.pulse(**{name.replace("-", "_"): mode for name, mode in self.halted.items()})
        self.fresh_until = self.bench.at + MAX_AGE
        assert self.bench.state.pulse is not None
        self.pulses.append(self.bench.state.pulse)

    @precondition(lambda self: self.sent and self.sent[-1].body.models)
    @rule(mode=st.sampled_from(["stop", "revert"]))
    def halt(self, mode: str) -> None:
        self.halted.setdefault(self.sent[-1].body.models[0].rollout_id, mode)
        self.pulse()

    @precondition(lambda self: self.pulses)
    @rule(data=st.data())
    def replay_pulse(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.pulses))
        self.bench.feed(ev.PulseReceived(at=self.bench.at, pulse=old, key_id=DIRECTOR))

    # --- results ---

    @rule(name=NAMES)
    def fetched(self, name: str) -> None:
        self.on_disk.add(name)
        self.bench.fetched(name)

    @rule(name=NAMES, problem=st.sampled_from(list(FetchProblem)))
    def fetch_failed(self, name: str, problem: FetchProblem) -> None:
        self.bench.fetch_failed(name, problem)

    @rule(name=NAMES, reason=st.sampled_from(["", "", "golden_mismatch"]))
    def trial_ended(self, name: str, reason: str) -> None:
        candidate = self.bench.state.models[0].candidate if self.bench.state.models else None
        if not reason and candidate is not None and candidate.release_id == name:
            self.tried.add(name)
        self.bench.tried(name, reason)

    @rule(broken=st.sampled_from(["", "", "", "v1", "v2", "v3"]))
    def applied(self, broken: str) -> None:
        self.bench.applied(**({broken: "cannot be loaded"} if broken else {}))

    @precondition(lambda self: self.bench.state.models)
    @rule(name=NAMES, counts=COUNTS, requests=st.integers(0, 5), errors=st.integers(0, 1))
    def measured(self, name: str, counts: PairedCounts, requests: int, errors: int) -> None:
        self.bench.measured(name, counts, requests=requests, errors=errors)

    @rule(steps=st.integers(1, 6))
    def go_on(self, steps: int) -> None:
        """Let the candidate have what it waits for: without it, chance hardly ever commits anything."""
        for _ in range(steps):
            candidates = [model for model in self.bench.state.models if model.candidate is not None]
            if not candidates or candidates[0].candidate is None:
                return
            self._help(candidates[0].phase, candidates[0].candidate.release_id)

    def _help(self, phase: Phase, name: str) -> None:
        match phase:
            case Phase.DOWNLOADING:
                self.fetched(name)
            case Phase.TRIAL:
                self.trial_ended(name, "")
            case Phase.STAGED:
                self.pulse()
            case _:
                self.bench.applied()
                self.bench.wait(11)
                self.bench.measured(name)

    # --- time and death ---

    @rule(seconds=st.sampled_from([1, 5, 11, 60, 600, 5000]))
    def wait(self, seconds: int) -> None:
        self.bench.wait(seconds)

    @rule()
    def serving_dies(self) -> None:
        self.lives += 1
        self.bench.boot = BootId(f"serving-{self.lives}")
        self.bench.feed(ev.ServingRestarted(at=self.bench.at, boot_id=self.bench.boot))

    @rule(damaged=st.sampled_from([None, None, "v1", "v2", "v3"]))
    def control_dies(self, damaged: str | None) -> None:
        # What the journal gives back is what was committed.
        self.bench.state = msgspec.json.decode(msgspec.json.encode(self.bench.state), type=AgentState)
        self.fresh_until = self.bench.at - timedelta(days=1)
        self.on_disk.discard(damaged or "")
        rotten = {"v1", "v2", "v3"} - self.on_disk
        self.bench.start(damage={ReleaseId(name): "digest_mismatch" for name in rotten})

    @rule()
    def acked(self) -> None:
        self.bench.feed(ev.ReportAcked(at=self.bench.at, revision=self.bench.state.report_revision))

    # --- what must hold ---

    @invariant()
    def order_never_falls(self) -> None:
        if self.bench.state.desired is not None:
            place = (self.bench.state.desired.epoch, self.bench.state.desired.generation)
            assert place >= self.place
            self.place = place

    @invariant()
    def nothing_unverified_is_in_the_plan(self) -> None:
        assert {slot.release_id for slot in self.bench.state.plan.slots} <= self.on_disk

    @invariant()
    def nothing_untried_is_in_the_plan(self) -> None:
        assert {slot.release_id for slot in self.bench.state.plan.slots} <= self.tried

    @invariant()
    def nothing_blacklisted_is_a_candidate(self) -> None:
        for model in self.bench.state.models:
            if model.candidate is not None:
                assert model.candidate.release.artifact.sha256 not in self.bench.state.blacklist

    @invariant()
    def nothing_activates_without_a_fresh_pulse_that_does_not_halt_it(self) -> None:
        for model in self.bench.state.models:
            if model.phase not in WATCHED or model.attempt is None or model.candidate is None:
                continue
            began = model.attempt.since == self.bench.at and not model.attempt.applied
            if began and self.bench.reason.endswith(("activate_beside", "activate_alone")):
                assert self.bench.at <= self.fresh_until
                assert model.candidate.release.rollout_id not in self.halted

    @invariant()
    def nothing_of_a_reverted_rollout_answers_or_runs(self) -> None:
        if not self.pulses or self.bench.state.pulse is not self.pulses[-1]:
            return
        for model in self.bench.state.models:
            for slot in (model.stable, model.candidate):
                assert slot is None or self.halted.get(slot.release.rollout_id) != "revert"

    @invariant()
    def committed_and_whole_means_served(self) -> None:
        for model, route in zip(self.bench.state.models, self.bench.state.plan.routes, strict=True):
            assert route.model == model.model
            if model.stable is not None and not model.stable.damaged:
                assert route.primary is not None
            assert (route.primary is None) == bool(route.unavailable_reason)

    @invariant()
    def an_end_is_never_taken_back(self) -> None:
        report = self.bench.state.report
        for assignment in report.assignments if report is not None else ():
            before, now = self.ended.get(key_of(assignment)), assignment.status
            if before is not None and before is not AssignmentStatus.SUCCEEDED:
                assert now is before
            if now in TERMINAL:
                self.ended[key_of(assignment)] = now

    @invariant()
    def candidate_exists_iff_under_way(self) -> None:
        for model in self.bench.state.models:
            idle = model.phase is Phase.IDLE
            assert (model.candidate is None) == (model.attempt is None) == idle

    @invariant()
    def state_survives_the_journal(self) -> None:
        state = self.bench.state
        assert msgspec.json.decode(msgspec.json.encode(state), type=AgentState) == state


DeviceLife.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
TestDeviceLife = DeviceLife.TestCase
