"""One device: the real reducer, and around it a disk, a serving process and an outbox that behave as theirs do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from agent.core import events as ev
from agent.core.commands import (
    ApplyPlan,
    CancelFetch,
    Command,
    FetchRelease,
    ForgetMeasurement,
    MeasureArtifact,
    PauseMeasurement,
    PublishReport,
    RemoveRelease,
    RequestDocuments,
    RequestStats,
    RunTrial,
    WriteBootFile,
)
from agent.core.plan import Applied, PairStats, Plan, SeriesStats, SlotState, Stats, TrialResult
from agent.core.reducer import decide
from agent.core.state import WATCHED, AgentState, Identity, Phase, Settings, Slot, new_state
from controller.rollouts.core.invariants import DeviceFact, check_device_step
from shared.hardware import DeviceHardware, Runtime
from shared.ids import BootId, DeviceId, InstallationId, KeyId, ModelName, ReleaseId, RolloutId, Sha256
from shared.wire import PairedCounts

if TYPE_CHECKING:
    from random import Random

    from shared.wire import Desired, DesiredModel, Pulse, Report
    from tests.support.simulation.virtual_time import Agenda

INSTALLATION = InstallationId("simulated")
DIRECTOR = KeyId("d" * 64)
HARDWARE = DeviceHardware(
    architecture="x86_64", memory_bytes=2**30, cores=2, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
)
_REQUESTS_PER_S = 20.0
_IDLE_TICK_S = 20.0
_BUSY_TICK_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Nature:
    """How a release really is."""

    flip_rate: float = 0.01
    slow_rate: float = 0.05
    error_rate: float = 0.0
    trial_fails: bool = False


class Uplink(Protocol):
    """What a device can do to the controller."""

    def session(self, device: DeviceId) -> BootId:
        """Return a boot id; never lost, for a device without one waits."""
        ...

    def report(self, device: DeviceId, boot_id: BootId, seq: int, report: Report) -> None:
        """Send a report."""
        ...

    def heartbeat(self, device: DeviceId) -> None:
        """Say that one is alive."""
        ...

    def ask(self, device: DeviceId) -> None:
        """Ask for Desired and Pulse."""
        ...


@dataclass(kw_only=True)
class Serving:
    """The serving process: converges on plans and counts."""

    life: int = 1
    plan: Plan = field(default_factory=lambda: Plan(serial=0))
    counted_at: float = 0.0
    pairs: dict[tuple[ReleaseId, ReleaseId], PairedCounts] = field(default_factory=dict)
    requests: dict[ReleaseId, tuple[int, int]] = field(default_factory=dict)


class SimulatedDevice:
    """One device; `online` and `traffic` are its fate, everything else follows."""

    def __init__(
        self, device_id: DeviceId, *, agenda: Agenda, draw: Random, uplink: Uplink, natures: dict[ReleaseId, Nature]
    ) -> None:
        self.device_id = device_id
        self.agenda, self.draw, self.uplink, self.natures = agenda, draw, uplink, natures
        self.online = True
        self.traffic = True
        self.disk: set[ReleaseId] = set()
        self.serving = Serving()
        self.boot_plan = Plan(serial=0)
        self.activations: list[tuple[float, RolloutId]] = []
        identity = Identity(installation_id=INSTALLATION, device_id=device_id, key_fingerprint=Sha256("f" * 64))
        self.settings = Settings(identity=identity, hardware=HARDWARE, agent_version="1", releases_dir="/r")
        self.state: AgentState = new_state(self.settings)
        self._fact = self._seen()
        self._life = 0
        self._boot = BootId("")
        self._seq = 0
        self._pending: tuple[Report, int] | None = None
        self._sent: dict[int, int] = {}

    # --- life

    def start(self, *, problem: str = "", recovered: tuple[Slot, ...] = ()) -> None:
        """Start the control process."""
        self._life += 1
        self._boot = self.uplink.session(self.device_id)
        self._seq, self._pending, self._sent = 0, None, {}
        self.feed(
            ev.Started(
                at=self.agenda.now(),
                settings=self.settings,
                on_disk=tuple(sorted(self.disk)),
                recovered=recovered,
                boot_serial=self.boot_plan.serial,
                journal_problem=problem,
            )
        )
        life = self._life
        self.agenda.after(self.draw.uniform(0.0, 2.0), lambda: self._tick(life))
        self.agenda.after(self.draw.uniform(0.0, 30.0), lambda: self._beat(life))

    def restart_control(self) -> None:
        """Kill the control process; inference goes on."""
        self.start()

    def restart_serving(self) -> None:
        """Kill the serving process: its counters start again, from boot.json."""
        self.serving = Serving(life=self.serving.life + 1, plan=self.boot_plan, counted_at=self.agenda.seconds)
        self.feed(ev.ServingRestarted(at=self.agenda.now(), boot_id=self.serving_boot))

    def lose_journal(self) -> None:
        """Start with nothing but what boot.json tells of stable."""
        recovered = tuple(
            replace(model.stable, release=replace(model.stable.release, rollout_id=RolloutId(""), attempt=0))
            for model in self.state.models
            if model.stable is not None
        )
        self.state = new_state(self.settings)
        self._fact = self._seen()
        self.start(problem="journal_rebuilt", recovered=recovered)

    @property
    def serving_boot(self) -> BootId:
        """The present life of serving."""
        return BootId(f"s-{self.serving.life}")

    @property
    def running(self) -> ReleaseId | None:
        """The committed release."""
        stable = self.state.models[0].stable if self.state.models else None
        return stable.release_id if stable is not None else None

    # --- what comes in

    def take_desired(self, desired: Desired) -> None:
        """Receive a sealed Desired."""
        if self.online:
            self.feed(ev.DesiredReceived(at=self.agenda.now(), desired=desired, key_id=DIRECTOR))

    def take_pulse(self, pulse: Pulse) -> None:
        """Receive a Pulse."""
        if self.online:
            self.feed(ev.PulseReceived(at=self.agenda.now(), pulse=pulse, key_id=DIRECTOR))

    def take_ack(self, boot_id: BootId, acked_seq: int) -> None:
        """Receive an acknowledgement."""
        if not self.online or boot_id != self._boot:
            return
        revisions = [revision for seq, revision in self._sent.items() if seq <= acked_seq]
        if not revisions:
            return
        newest = max(revisions)
        if self._pending is not None and self._pending[1] <= newest:
            self._pending = None
        self.feed(ev.ReportAcked(at=self.agenda.now(), revision=newest))

    def feed(self, event: ev.Event) -> None:
        """Decide, check, remember, do."""
        before = self.state
        decision = decide(before, event)
        self.state = decision.state
        if self.state.models is not before.models or self.state.floors is not before.floors:
            fact = self._seen()
            check_device_step(self._fact, fact)
            for rollout, _ in fact.activated - self._fact.activated:
                self.activations.append((self.agenda.seconds, rollout))
            self._fact = fact
        for command in decision.commands:
            self._execute(command)

    # --- what goes out

    def _execute(self, command: Command) -> None:  # noqa: C901 - one branch a command: a table
        life = self._life
        match command:
            case FetchRelease(model=model, release=release):
                self._later(1.0, 5.0, life, lambda: self._fetched(model, release))
            case RunTrial(model=model, release_id=release_id):
                self._later(0.5, 2.0, life, lambda: self._tried(model, release_id))
            case ApplyPlan(plan=plan):
                self._later(0.05, 0.5, life, lambda: self._apply(plan))
            case WriteBootFile(boot=boot):
                self.boot_plan = boot.plan
            case RequestStats():
                self._later(0.01, 0.1, life, self._measure)
            case RequestDocuments():
                if self.online:
                    self.uplink.ask(self.device_id)
            case PublishReport(report=report, revision=revision):
                first = self._pending is None
                self._pending = (report, revision)
                self._send()
                if first:
                    self._later(2.0, 6.0, life, self._resend)
            case RemoveRelease(release_id=release_id):
                self.disk.discard(release_id)
            case CancelFetch() | MeasureArtifact() | PauseMeasurement() | ForgetMeasurement():
                # No Desired here asks for figures.
                pass

    def _later(self, least: float, most: float, life: int, action: object) -> None:
        def unless_dead() -> None:
            if life == self._life and callable(action):
                action()

        self.agenda.after(self.draw.uniform(least, most), unless_dead)

    def _fetched(self, model: ModelName, release: DesiredModel) -> None:
        at, chance = self.agenda.now(), self.draw.random()
        if chance < 0.06 or not self.online:
            problem = ev.FetchProblem.CORRUPT if chance < 0.01 else ev.FetchProblem.DELAYED
            reason = "digest_mismatch" if problem is ev.FetchProblem.CORRUPT else "unreachable"
            self.feed(ev.FetchFailed(at=at, model=model, release_id=release.release_id, problem=problem, reason=reason))
            return
        self.disk.add(release.release_id)
        number = int(release.release_id[-1])
        self.feed(ev.FetchFinished(at=at, model=model, release_id=release.release_id, version_number=number))

    def _tried(self, model: ModelName, release_id: ReleaseId) -> None:
        bad = self.natures[release_id].trial_fails
        result = TrialResult(passed=not bad, reason="golden_mismatch: case 1" if bad else "")
        self.feed(ev.TrialFinished(at=self.agenda.now(), model=model, release_id=release_id, result=result))

    def _apply(self, plan: Plan) -> None:
        self._count()
        if plan.serial < self.serving.plan.serial:
            return
        self.serving.plan = plan
        slots = tuple(SlotState(model=one.model, release_id=one.release_id, loaded=True) for one in plan.slots)
        applied = Applied(serial=plan.serial, boot_id=self.serving_boot, slots=slots)
        self.feed(ev.PlanApplied(at=self.agenda.now(), applied=applied))

    def _measure(self) -> None:
        self._count()
        model = self.serving.plan.routes[0].model if self.serving.plan.routes else ModelName("digits")
        series = tuple(
            SeriesStats(model=model, release_id=one, counts={"requests": asked, "request_errors": errors})
            for one, (asked, errors) in self.serving.requests.items()
        )
        pairs = tuple(
            PairStats(model=model, candidate=candidate, stable=stable, counts=counts)
            for (candidate, stable), counts in self.serving.pairs.items()
        )
        stats = Stats(boot_id=self.serving_boot, series=series, pairs=pairs)
        self.feed(ev.StatsMeasured(at=self.agenda.now(), stats=stats))

    def _count(self) -> None:
        """Serve what was asked since the last look."""
        serving = self.serving
        asked = int((self.agenda.seconds - serving.counted_at) * _REQUESTS_PER_S) if self.traffic else 0
        serving.counted_at = self.agenda.seconds
        for route in serving.plan.routes:
            if route.primary is None or asked == 0:
                continue
            nature = self.natures[route.primary]
            had, wrong = serving.requests.get(route.primary, (0, 0))
            serving.requests[route.primary] = (had + asked, wrong + self._hits(asked, nature.error_rate))
            if route.candidate is not None and route.shadow is not None:
                stable = route.shadow if route.primary == route.candidate else route.primary
                self._count_pairs(route.candidate, stable, min(asked, 200))

    def _count_pairs(self, candidate: ReleaseId, stable: ReleaseId, pairs: int) -> None:
        nature, had = self.natures[candidate], self.serving.pairs.get((candidate, stable), PairedCounts())
        self.serving.pairs[candidate, stable] = PairedCounts(
            pairs=had.pairs + pairs,
            flips=had.flips + self._hits(pairs, nature.flip_rate),
            slower=had.slower + self._hits(pairs, nature.slow_rate),
            candidate_errors=had.candidate_errors + self._hits(pairs, nature.error_rate),
        )

    def _hits(self, trials: int, share: float) -> int:
        if share <= 0.0:
            return 0
        # The normal approximation is near enough to a binomial, and a hundred times as fast.
        mean = trials * share
        return min(max(round(self.draw.gauss(mean, (mean * (1 - share)) ** 0.5)), 0), trials)

    def _send(self) -> None:
        if self._pending is None or not self.online:
            return
        report, revision = self._pending
        self._seq += 1
        self._sent[self._seq] = revision
        self.uplink.report(self.device_id, self._boot, self._seq, report)

    def _resend(self) -> None:
        if self._pending is not None:
            self._send()
            self._later(2.0, 6.0, self._life, self._resend)

    def _tick(self, life: int) -> None:
        if life != self._life:
            return
        self.feed(ev.Tick(at=self.agenda.now()))
        busy = any(model.phase is not Phase.IDLE for model in self.state.models)
        self.agenda.after(_BUSY_TICK_S if busy else _IDLE_TICK_S, lambda: self._tick(life))

    def _beat(self, life: int) -> None:
        if life != self._life:
            return
        if self.online:
            self.uplink.heartbeat(self.device_id)
        self.agenda.after(self.draw.uniform(24.0, 36.0), lambda: self._beat(life))

    def _seen(self) -> DeviceFact:
        state, pulse = self.state, self.state.pulse
        desired = state.desired
        received = state.pulse_received_at
        return DeviceFact(
            device=self.device_id,
            order=(desired.epoch, desired.generation) if desired is not None else (0, 0),
            held=frozenset(slot.release_id for slot in state.plan.slots),
            verified=frozenset(self.disk),
            activated=frozenset(
                (model.candidate.release.rollout_id, model.candidate.release.attempt)
                for model in state.models
                if model.candidate is not None and model.phase in WATCHED
            ),
            pulse_age_s=(self.agenda.now() - pulse.issued_at).total_seconds()
            if pulse is not None and received is not None
            else None,
            pulse_max_age_s=self.settings.pulse_max_age_s,
            halted=frozenset(pulse.halted) if pulse is not None else frozenset(),
        )
