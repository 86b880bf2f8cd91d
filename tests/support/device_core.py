"""One device's reducer on a bench: events in by name, commands out, time by hand. Pure, like the core itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agent.core import events as ev
from agent.core.plan import Applied, PairStats, SeriesStats, SlotState, Stats, TrialResult
from agent.core.probation import LONGEST_STEP_S
from agent.core.reducer import decide
from agent.core.state import AgentState, Identity, Phase, Settings, new_state
from shared.hardware import DeviceHardware, Runtime
from shared.ids import (
    BootId,
    DeviceId,
    Epoch,
    Generation,
    HardwareProfileId,
    InstallationId,
    KeyId,
    ModelName,
    ReleaseId,
    RolloutId,
    Sha256,
)
from shared.manifest import artifact_path, digest, manifest_path
from shared.wire import Desired, DesiredBody, DesiredModel, HaltMode, PairedCounts, ProbationPolicy, Pulse, TargetRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.commands import Command
    from agent.core.plan import Route
    from agent.core.state import ModelState, Slot
    from shared.traffic import TrafficRule
    from shared.wire import AssignmentReport, Report

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DIGITS = ModelName("digits")
DIRECTOR = KeyId("d" * 64)
BOOT = BootId("serving-1")
IDENTITY = Identity(
    installation_id=InstallationId("inst"), device_id=DeviceId("dev-1"), key_fingerprint=Sha256("f" * 64)
)
POLICY = ProbationPolicy()
GOOD = PairedCounts(pairs=120, flips=0, slower=0)
"""Enough to pass the default policy."""

C = TypeVar("C")


SETTINGS = Settings(
    identity=IDENTITY,
    hardware=DeviceHardware(
        architecture="x86_64", memory_bytes=2**30, cores=2, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
    ),
    agent_version="0",
    releases_dir="/state/releases",
)


def release(
    name: str,
    *,
    rollout: str | None = None,
    attempt: int = 1,
    model: ModelName = DIGITS,
    policy: ProbationPolicy = POLICY,
    counter: int = 1,
    variant: str | msgspec.UnsetType = msgspec.UNSET,
) -> DesiredModel:
    """Return a wanted release; files follow from its name, the rollout is `r-{name}` unless told otherwise."""
    artifact, release_id = digest(name.encode()), ReleaseId(name)
    return DesiredModel(
        model=model,
        variant=variant,
        release_id=release_id,
        rollout_id=RolloutId(rollout or f"r-{name}"),
        attempt=attempt,
        manifest=TargetRef(path=manifest_path(release_id), length_bytes=10, sha256=digest(f"m{name}".encode())),
        artifact=TargetRef(path=artifact_path(artifact), length_bytes=20, sha256=artifact),
        profile_id=HardwareProfileId("generic"),
        release_counter=counter,
        policy=policy,
    )


@dataclass(slots=True, kw_only=True)
class Bench:
    """A device core, what it asked for, and a clock; every method that feeds an event returns the commands of it."""

    at: datetime = NOON
    boot: BootId = BOOT
    state: AgentState = field(default_factory=lambda: new_state(SETTINGS))
    reason: str = ""
    log: list[Command] = field(default_factory=list)
    generation: int = 0
    serial: int = 0
    newest: Stats | None = None

    def feed(self, event: ev.Event) -> tuple[Command, ...]:
        """Decide on an event."""
        decision = decide(self.state, event)
        self.state, self.reason = decision.state, decision.reason
        self.log.extend(decision.commands)
        return decision.commands

    def start(
        self,
        *,
        damage: Mapping[ReleaseId, str] | None = None,
        recovered: tuple[Slot, ...] = (),
        boot_serial: int = 0,
        journal_problem: str = "",
    ) -> tuple[Command, ...]:
        """Start the control process (again)."""
        return self.feed(
            ev.Started(
                at=self.at,
                settings=SETTINGS,
                damage=damage or {},
                on_disk=self.state.on_disk,
                recovered=recovered,
                boot_serial=boot_serial,
                journal_problem=journal_problem,
            )
        )

    def wait(self, seconds: float) -> tuple[Command, ...]:
        """Let time pass, and tick once."""
        self.at += timedelta(seconds=seconds)
        return self.feed(ev.Tick(at=self.at))

    def desire(
        self,
        *models: DesiredModel,
        epoch: int = 1,
        generation: int | None = None,
        overrides: tuple[Sha256, ...] = (),
        traffic: tuple[TrafficRule, ...] = (),
    ) -> tuple[Command, ...]:
        """Receive a Desired of the next generation (or of the given one) that lists these models."""
        self.generation = self.generation + 1 if generation is None else generation
        desired = self.desired(*models, epoch=epoch, overrides=overrides, traffic=traffic)
        return self.feed(ev.DesiredReceived(at=self.at, desired=desired, key_id=DIRECTOR))

    def desired(
        self,
        *models: DesiredModel,
        epoch: int = 1,
        overrides: tuple[Sha256, ...] = (),
        traffic: tuple[TrafficRule, ...] = (),
    ) -> Desired:
        """Return a Desired of the current generation."""
        return Desired(
            installation_id=IDENTITY.installation_id,
            device_id=IDENTITY.device_id,
            key_fingerprint=IDENTITY.key_fingerprint,
            epoch=Epoch(epoch),
            generation=Generation(self.generation),
            body=DesiredBody(models=models, blacklist_overrides=overrides, traffic=traffic or msgspec.UNSET),
            issued_at=self.at,
            expires_at=self.at + timedelta(days=7),
        )

    def pulse(self, **halted: str) -> tuple[Command, ...]:
        """Receive a fresh Pulse; `r_v2="revert"` halts rollout r-v2."""
        self.serial += 1
        halts = {RolloutId(name.replace("_", "-")): HaltMode(mode) for name, mode in halted.items()}
        pulse = Pulse(
            installation_id=IDENTITY.installation_id,
            epoch=Epoch(1),
            serial=self.serial,
            issued_at=self.at,
            halted=halts,
        )
        return self.feed(ev.PulseReceived(at=self.at, pulse=pulse, key_id=DIRECTOR))

    def fetched(self, name: str, *, model: ModelName = DIGITS) -> tuple[Command, ...]:
        """Finish a fetch."""
        return self.feed(
            ev.FetchFinished(at=self.at, model=model, release_id=ReleaseId(name), version_number=int(name[1:] or 0))
        )

    def fetch_failed(self, name: str, problem: ev.FetchProblem, reason: str = "why") -> tuple[Command, ...]:
        """Fail a fetch."""
        return self.feed(
            ev.FetchFailed(at=self.at, model=DIGITS, release_id=ReleaseId(name), problem=problem, reason=reason)
        )

    def tried(self, name: str, reason: str = "", *, model: ModelName = DIGITS) -> tuple[Command, ...]:
        """Finish a trial; with a reason, it failed."""
        result = TrialResult(passed=not reason, reason=reason)
        return self.feed(ev.TrialFinished(at=self.at, model=model, release_id=ReleaseId(name), result=result))

    def applied(self, **errors: str) -> tuple[Command, ...]:
        """Serving converges on the newest plan; `v2="bad"` could not be loaded."""
        slots = tuple(
            SlotState(
                model=slot.model,
                release_id=slot.release_id,
                loaded=slot.release_id not in errors,
                error=errors.get(slot.release_id, ""),
            )
            for slot in self.state.plan.slots
        )
        applied = Applied(serial=self.state.plan.serial, boot_id=self.boot, slots=slots)
        return self.feed(ev.PlanApplied(at=self.at, applied=applied))

    def measured(
        self, name: str, paired: PairedCounts = GOOD, *, requests: int = 0, errors: int = 0
    ) -> tuple[Command, ...]:
        """Serving tells its counters of a candidate."""
        stable = self.model.stable
        pair = PairStats(
            model=DIGITS,
            candidate=ReleaseId(name),
            stable=stable.release_id if stable is not None else ReleaseId("none"),
            counts=paired,
        )
        counts = {"requests": requests, "request_errors": errors}
        series = SeriesStats(model=DIGITS, release_id=ReleaseId(name), counts=counts)
        self._read_meanwhile()
        self.newest = Stats(boot_id=self.boot, series=(series,), pairs=(pair,))
        return self.feed(ev.StatsMeasured(at=self.at, stats=self.newest))

    def _read_meanwhile(self) -> None:
        """Feed the readings of the time that passed, with nothing new in them: only what is read counts as watched."""
        same_life = self.newest is not None and self.newest.boot_id == self.boot
        stats = self.newest if same_life and self.newest is not None else Stats(boot_id=self.boot)
        while self.model.phase is Phase.PROBATION and (attempt := self.model.attempt) is not None:
            if not attempt.applied or attempt.watched_at is None or attempt.watched_at >= self.at:
                return
            at = min(attempt.watched_at + timedelta(seconds=LONGEST_STEP_S), self.at)
            self.feed(ev.StatsMeasured(at=at, stats=stats))

    def stage(self, name: str) -> None:
        """Bring what is being downloaded as far as a trial takes it."""
        self.fetched(name)
        self.tried(name)

    def commit(self, name: str, *, rollout: str | None = None) -> None:
        """Bring a release all the way to stable."""
        self.desire(release(name, rollout=rollout))
        self.pulse()
        self.stage(name)
        self.applied()
        if self.model.phase is Phase.SHADOW:
            self.measured(name)
            self.applied()
        self.wait(11)
        self.measured(name)
        self.applied()

    @property
    def model(self) -> ModelState:
        """The only model's state."""
        (model,) = self.state.models
        return model

    @property
    def route(self) -> Route:
        """Who answers for the only model."""
        (route,) = self.state.plan.routes
        return route

    @property
    def report(self) -> Report:
        """The newest report."""
        assert self.state.report is not None
        return self.state.report

    def assignment(self, name: str, *, attempt: int = 1) -> AssignmentReport:
        """Return how the newest report tells of an assignment."""
        (found,) = (a for a in self.report.assignments if a.release_id == name and a.attempt == attempt)
        return found


def only(commands: tuple[Command, ...], kind: type[C]) -> tuple[C, ...]:
    """Return the commands of one kind."""
    return tuple(command for command in commands if isinstance(command, kind))
