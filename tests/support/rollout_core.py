"""A rollout in memory: the core, its assignments, and a dispatch that does at once what the core asks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from controller.rollouts.core.invariants import AssignmentFact, RolloutWorld, check_all, check_step
from controller.rollouts.core.planner import decide, draft
from controller.rollouts.core.tally import HALTED, AssignmentFacts, may_become
from controller.rollouts.core.types import (
    OPEN_WAVE,
    AssignmentChange,
    AssignmentsChanged,
    Command,
    Decision,
    Event,
    FindMembers,
    Halt,
    MembersFound,
    OpenBucketRange,
    RestorePrevious,
    RolloutState,
    RolloutStatus,
    Rules,
    Started,
    Swept,
    Tick,
)
from controller.rollouts.core.waves import bucket_of, cut_waves, parse_sizes
from shared.ids import DeviceId, ModelName, RolloutId
from shared.wire import TERMINAL, AssignmentStatus, HaltMode

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = ModelName("digits")
RULES = Rules(soak_s=60.0, wave_deadline_s=3600.0, on_failure=HaltMode.REVERT, max_flip_rate=0.1, min_pairs=30)


@dataclass(kw_only=True)
class Member:
    """One assignment."""

    wave: int
    bucket: int
    facts: AssignmentFacts = field(default_factory=AssignmentFacts)


class CoreRollout:
    """Drives the core with a cohort; every step is checked."""

    def __init__(self, devices: int, *, waves: tuple[str, ...] = ("1", "25%", "100%"), rules: Rules = RULES) -> None:
        self.now = START
        self.cohort = [DeviceId(f"d-{n:03d}") for n in range(devices)]
        self.members: dict[DeviceId, Member] = {}
        self.halts: list[HaltMode] = []
        self.queue: list[Command] = []
        self.decisions: list[Decision] = []
        specs = cut_waves(parse_sizes(waves), [bucket_of("salt", one) for one in self.cohort])
        self.state: RolloutState = draft(RolloutId("r-1"), rules, specs)
        self.send(Started(at=self.now))
        self.dispatch()

    def send(self, event: Event) -> Decision:
        """Decide, check, and queue what is asked."""
        decision = decide(self.state, event)
        check_step(self.state, decision)
        self.state = decision.state
        self.queue += decision.commands
        self.decisions.append(decision)
        return decision

    def dispatch(self) -> None:
        """Carry out everything that is queued."""
        while self.queue:
            self.dispatch_one()

    def dispatch_one(self) -> None:
        """Carry out the oldest command."""
        command = self.queue.pop(0)
        match command:
            case FindMembers():
                self._find(command)
            case OpenBucketRange():
                self._open(command)
            case Halt(mode=mode):
                self.halts.append(mode)
            case RestorePrevious(mode=mode):
                self._restore(mode)

    def change(self, device: DeviceId, **values: object) -> Decision:
        """Move one assignment, as a report or a timer would."""
        member = self.members[device]
        before = member.facts
        member.facts = replace(before, **values)  # type: ignore[arg-type] # a test names the fields it means
        moved = AssignmentChange(wave=member.wave, before=before, after=member.facts)
        return self.send(AssignmentsChanged(at=self.now, changes=(moved,)))

    def report(self, device: DeviceId, status: AssignmentStatus, *, reason: str = "", activated: bool = True) -> None:
        """Report as a device does; what is terminal stays."""
        member = self.members[device]
        if not member.facts.opened or not may_become(member.facts.status, status):
            return
        self.change(device, status=status, reason=reason, activated=activated, unreachable=False)
        self.dispatch()

    def tick(self, seconds: float = 0.0) -> Decision:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)
        decision = self.send(Tick(at=self.now))
        self.dispatch()
        return decision

    def told(self) -> list[DeviceId]:
        """Return the devices that were told and have no result."""
        return [
            device
            for device, one in sorted(self.members.items())
            if one.facts.opened and not one.facts.unreachable and one.facts.status not in TERMINAL
        ]

    def succeed_all(self) -> None:
        """Let every told device succeed, until nobody is left to be told."""
        while self.state.status is RolloutStatus.RUNNING and (told := self.told()):
            for device in told:
                self.report(device, AssignmentStatus.SUCCEEDED)

    def check(self) -> None:
        """Recount everything."""
        facts = tuple(
            AssignmentFact(device=device, wave=one.wave, facts=one.facts) for device, one in self.members.items()
        )
        check_all([RolloutWorld(model=MODEL, state=self.state, assignments=facts)])

    def _find(self, command: FindMembers) -> None:
        if self.state.waves[command.wave - 1].status not in OPEN_WAVE:
            return
        buckets = {device: bucket_of("salt", device) for device in self.cohort if device not in self.members}
        found = [device for device, bucket in buckets.items() if command.lo <= bucket < command.hi][: command.limit]
        for device in found:
            self.members[device] = Member(wave=command.wave, bucket=buckets[device])
        changes = tuple(
            AssignmentChange(wave=command.wave, before=None, after=self.members[device].facts) for device in found
        )
        self.send(AssignmentsChanged(at=self.now, changes=changes))
        self.send(MembersFound(at=self.now, wave=command.wave))

    def _open(self, command: OpenBucketRange) -> None:
        if self.state.status is not RolloutStatus.RUNNING:
            self.send(AssignmentsChanged(at=self.now, changes=(), opened=command.limit))
            return
        waiting = sorted(
            (one.bucket, device)
            for device, one in self.members.items()
            if one.wave == command.wave and not one.facts.opened and one.facts.status is AssignmentStatus.QUEUED
        )[: command.limit]
        changes = []
        for _, device in waiting:
            member = self.members[device]
            before, member.facts = member.facts, replace(member.facts, opened=True)
            changes.append(AssignmentChange(wave=member.wave, before=before, after=member.facts))
        self.send(AssignmentsChanged(at=self.now, changes=tuple(changes), opened=command.limit))

    def _restore(self, mode: HaltMode) -> None:
        for device, member in self.members.items():
            facts = member.facts
            if not facts.opened and facts.status is AssignmentStatus.QUEUED:
                self.change(device, status=AssignmentStatus.CANCELED, reason=HALTED)
                continue
            kept = facts.status is AssignmentStatus.SUCCEEDED and mode is HaltMode.REVERT
            if facts.opened and (kept or facts.status not in TERMINAL):
                self.change(device, going_back=True)
        self.send(Swept(at=self.now))

    def come_back(self) -> None:
        """Let every device that was told so confirm that it is back."""
        for device, member in sorted(self.members.items()):
            if member.facts.going_back:
                status = member.facts.status
                ended = status if status in TERMINAL else AssignmentStatus.CANCELED
                self.change(device, going_back=False, status=ended, reason=HALTED)
