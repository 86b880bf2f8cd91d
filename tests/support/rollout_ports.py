"""What rollouts need of other domains, in memory; and a fleet whose devices do what a test tells them."""

# ruff: noqa: ARG002 - ports are handed a unit of work and a model, which memory does not need

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from controller.facts import ArtifactChoice, DeviceFacts, Misfit, ReleaseFacts, SetRelease
from shared.errors import InvalidInputError, NotFoundError
from shared.hardware import DeviceHardware, Runtime
from shared.ids import (
    DeviceId,
    Epoch,
    Generation,
    HardwareProfileId,
    ModelName,
    ReleaseId,
    RolloutId,
    Sha256,
    SiteId,
)
from shared.wire import (
    AssignmentPhase,
    AssignmentReport,
    AssignmentStatus,
    DesiredComponent,
    HaltMode,
    PairedCounts,
    Report,
    SlotReport,
    TargetRef,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork

MODEL = ModelName("digits")
V1, V2, V3 = ReleaseId("release-1"), ReleaseId("release-2"), ReleaseId("release-3")
HARDWARE = DeviceHardware(
    architecture="x86_64", memory_bytes=2**30, cores=2, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.1"
)
SMALL = DeviceHardware(
    architecture="armv7l", memory_bytes=2**20, cores=1, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.1"
)


class ManualClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """Return the time set."""
        return self.at

    def monotonic(self) -> float:
        """Return the same time as seconds."""
        return self.at.timestamp()

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.at += timedelta(seconds=seconds)


class MemoryCohorts:
    """Devices by `all`, or `key=value` on a label."""

    def __init__(self) -> None:
        self.devices: dict[DeviceId, DeviceFacts] = {}
        self.old: set[DeviceId] = set()
        """Whose agents understand nothing that was added since the first."""

    async def check(self, uow: UnitOfWork, query: str) -> None:
        """Refuse a label that no device has."""
        key = query.partition("=")[0]
        known = sorted({label for one in self.devices.values() for label in one.labels})
        if query != "all" and key not in known:
            raise InvalidInputError(field="cohort", problem=f"no device has a label {key!r}", remedy=", ".join(known))

    async def iterate(self, uow: UnitOfWork, query: str, after: DeviceId | None, limit: int) -> list[DeviceFacts]:
        """Return the next devices."""
        key, _, value = query.partition("=")
        found = [
            one
            for device, one in sorted(self.devices.items())
            if (after is None or device > after) and (query == "all" or one.labels.get(key) == value)
        ]
        return found[:limit]

    async def facts(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DeviceFacts]:
        """Return what is known of these devices."""
        return {one: self.devices[one] for one in ids if one in self.devices}

    async def not_understanding(self, uow: UnitOfWork, ids: Sequence[DeviceId], what: str) -> set[DeviceId]:
        """Return devices with an old agent."""
        return self.old & set(ids)


class MemoryReleases:
    """Three releases of one model; small devices fit none."""

    def __init__(self) -> None:
        self.components: tuple[DesiredComponent, ...] = ()
        """What every release is made of besides."""

    async def facts(self, uow: UnitOfWork, release_id: ReleaseId) -> ReleaseFacts:
        """Return a release."""
        if release_id not in {V1, V2, V3}:
            raise NotFoundError(kind="release", name=release_id)
        number = int(release_id[-1])
        return ReleaseFacts(release_id=release_id, model=MODEL, version_number=number, release_counter=number)

    async def fit(self, uow: UnitOfWork, release_id: ReleaseId, hardware: DeviceHardware) -> ArtifactChoice | Misfit:
        """Return an artifact."""
        if hardware.memory_bytes < 2**25:
            return Misfit(reason=f"memory {hardware.memory_bytes} bytes is too small")
        return ArtifactChoice(
            manifest=TargetRef(path=f"releases/{release_id}.json", length_bytes=1, sha256=Sha256("a" * 64)),
            artifact=TargetRef(path=f"artifacts/{release_id}.tflite", length_bytes=1, sha256=Sha256("b" * 64)),
            profile_id=HardwareProfileId("generic"),
            release_counter=int(release_id[-1]),
            components=self.components,
        )


class MemoryDesires:
    """What devices should run; an intent counts once its transaction is durable."""

    def __init__(self) -> None:
        self.intents: dict[DeviceId, SetRelease] = {}
        self.history: list[SetRelease] = []
        self.fail_next = False

    async def set_releases(self, uow: UnitOfWork, intents: list[SetRelease]) -> dict[DeviceId, str]:
        """Take over intents."""
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the process dies here")
        uow.after_commit(lambda: self._take(intents))
        return {}

    async def current(
        self, uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName
    ) -> dict[DeviceId, ReleaseId | None]:
        """Return what devices should run."""
        return {one: self.intents[one].release_id if one in self.intents else None for one in ids}

    def _take(self, intents: list[SetRelease]) -> None:
        self.history += intents
        self.intents.update({one.device_id: one for one in intents})


class MemoryPulses:
    """What the Pulse says."""

    def __init__(self) -> None:
        self.halted: dict[RolloutId, HaltMode] = {}

    async def halt(self, uow: UnitOfWork, rollout_id: RolloutId, mode: HaltMode) -> None:
        """Name a rollout as halted."""
        uow.after_commit(lambda: self.halted.__setitem__(rollout_id, mode))


@dataclass(frozen=True, slots=True, kw_only=True)
class SentReport:
    """A report whose sender and order are proved."""

    device_id: DeviceId
    report: Report


@dataclass(kw_only=True)
class Fleet:
    """All ports together, with short cuts for tests."""

    clock: ManualClock = field(default_factory=ManualClock)
    cohorts: MemoryCohorts = field(default_factory=MemoryCohorts)
    releases: MemoryReleases = field(default_factory=MemoryReleases)
    desires: MemoryDesires = field(default_factory=MemoryDesires)
    pulses: MemoryPulses = field(default_factory=MemoryPulses)

    def add(self, amount: int, *, prefix: str = "d", hardware: DeviceHardware | None = HARDWARE) -> None:
        """Enrol devices that were just seen."""
        for n in range(amount):
            device = DeviceId(f"{prefix}-{n:03d}")
            self.cohorts.devices[device] = DeviceFacts(
                device_id=device,
                site=SiteId("home"),
                labels={"ring": prefix},
                hardware=hardware,
                last_seen_at=self.clock.now(),
            )

    def see_all(self) -> None:
        """Let every device have sent a heartbeat just now."""
        now = self.clock.now()
        self.cohorts.devices = {one: replace(facts, last_seen_at=now) for one, facts in self.cohorts.devices.items()}

    def report(
        self,
        device: DeviceId,
        status: AssignmentStatus,
        *,
        reason: str = "",
        phase: AssignmentPhase | None = None,
        attempt: int = 1,
        activated: bool = True,
        stable: ReleaseId | None = None,
        paired: PairedCounts | None = None,
    ) -> SentReport:
        """Return the report of a device on its newest intent."""
        intent = self.desires.intents[device]
        said = AssignmentReport(
            model=MODEL,
            release_id=intent.release_id or V1,
            rollout_id=intent.rollout_id,
            attempt=attempt,
            status=status,
            phase=phase,
            activated=activated,
            reason=reason,
            changed_at=self.clock.now(),
            paired=paired,
        )
        held = intent.release_id if status is AssignmentStatus.SUCCEEDED else stable
        return SentReport(device_id=device, report=self._report(held, (said,)))

    def silent_report(self, device: DeviceId, *, stable: ReleaseId | None) -> SentReport:
        """Return a report that speaks of no assignment, only of what the device holds."""
        return SentReport(device_id=device, report=self._report(stable, ()))

    def _report(self, stable: ReleaseId | None, assignments: tuple[AssignmentReport, ...]) -> Report:
        return Report(
            epoch=Epoch(1),
            generation=Generation(1),
            body_digest=Sha256("0" * 64),
            agent_version="1",
            hardware=HARDWARE,
            slots=(SlotReport(model=MODEL, stable=stable),),
            assignments=assignments,
        )
