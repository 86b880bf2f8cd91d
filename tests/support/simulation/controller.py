"""The controller: the real rollout service and dispatch on SQLite; its neighbours in memory, its messages lossy."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from controller.desired.core.compose import Wishes, apply, compose
from controller.dispatch import Dispatch
from controller.facts import ArtifactChoice, DeviceFacts, Misfit, ReleaseFacts, SetRelease
from controller.rollouts.core.invariants import InvariantError
from controller.rollouts.service import RolloutService
from shared.clock import SystemClock
from shared.ids import (
    BootId,
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
from shared.manifest import artifact_path, digest, manifest_path
from shared.wire import Desired, HaltMode, Pulse, TargetRef, body_digest
from tests.support.rollout_ports import MemoryCohorts, SentReport
from tests.support.simulation.device import HARDWARE, INSTALLATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from shared.hardware import DeviceHardware
    from shared.wire import Report
    from tests.support.simulation.device import SimulatedDevice
    from tests.support.simulation.virtual_time import Agenda, Network

# ruff: noqa: ARG002 - ports are handed a unit of work, which memory does not need

MODEL = ModelName("digits")
_INGEST_S = 1.0
_TICK_S = 2.0
_PULSE_S = 120.0


class SimulatedReleases:
    """Releases whose files follow from their names."""

    async def facts(self, uow: UnitOfWork, release_id: ReleaseId) -> ReleaseFacts:
        """Return a release."""
        number = int(release_id[-1])
        return ReleaseFacts(release_id=release_id, model=MODEL, version_number=number, release_counter=number)

    async def fit(self, uow: UnitOfWork, release_id: ReleaseId, hardware: DeviceHardware) -> ArtifactChoice | Misfit:
        """Return its only artifact."""
        artifact = digest(release_id.encode())
        return ArtifactChoice(
            manifest=TargetRef(
                path=manifest_path(release_id), length_bytes=10, sha256=digest(f"m{release_id}".encode())
            ),
            artifact=TargetRef(path=artifact_path(artifact), length_bytes=20, sha256=artifact),
            profile_id=HardwareProfileId("generic"),
            release_counter=int(release_id[-1]),
        )


class SimulatedDesires:
    """Documents composed by the real core, with the real rule for generations."""

    def __init__(self, agenda: Agenda) -> None:
        self.wishes: dict[DeviceId, Wishes] = defaultdict(dict)
        self.documents: dict[DeviceId, Desired] = {}
        self.to_publish: list[DeviceId] = []
        self._agenda = agenda

    async def set_releases(self, uow: UnitOfWork, intents: list[SetRelease]) -> dict[DeviceId, str]:
        """Take over intents once they are durable."""
        uow.after_commit(lambda: self._take(intents))
        return {}

    async def current(
        self, uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName
    ) -> dict[DeviceId, ReleaseId | None]:
        """Return what devices should run."""
        return {one: self.desired_release(one, model) for one in ids}

    def desired_release(self, device: DeviceId, model: ModelName = MODEL) -> ReleaseId | None:
        """Return what a device should run."""
        wish = self.wishes[device].get(model)
        return wish.entry.release_id if wish is not None else None

    def _take(self, intents: list[SetRelease]) -> None:
        for intent in intents:
            device = intent.device_id
            self.wishes[device] = apply(self.wishes[device], [intent])
            body = compose(self.wishes[device])
            known = self.documents.get(device)
            if known is not None and body_digest(known.body) == body_digest(body):
                continue
            self.documents[device] = Desired(
                installation_id=INSTALLATION,
                device_id=device,
                key_fingerprint=Sha256("f" * 64),
                epoch=Epoch(1),
                generation=Generation(known.generation + 1 if known is not None else 1),
                body=body,
                issued_at=self._agenda.now(),
                expires_at=self._agenda.now() + timedelta(days=14),
            )
            self.to_publish.append(device)


class SimulatedPulses:
    """The Pulse, and when each rollout was halted."""

    def __init__(self, agenda: Agenda) -> None:
        self.halted: dict[RolloutId, HaltMode] = {}
        self.halted_at: dict[RolloutId, float] = {}
        self.serial = 0
        self.changed = True
        self._agenda = agenda

    async def halt(self, uow: UnitOfWork, rollout_id: RolloutId, mode: HaltMode) -> None:
        """Name a rollout as halted once that is durable."""
        uow.after_commit(lambda: self._take(rollout_id, mode))

    def pulse(self) -> Pulse:
        """Return the newest Pulse."""
        self.serial += 1
        return Pulse(
            installation_id=INSTALLATION,
            epoch=Epoch(1),
            serial=self.serial,
            issued_at=self._agenda.now(),
            halted=dict(self.halted),
        )

    def _take(self, rollout_id: RolloutId, mode: HaltMode) -> None:
        self.halted[rollout_id] = mode
        self.halted_at[rollout_id] = self._agenda.seconds
        self.changed = True


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A report that came through."""

    device_id: DeviceId
    boot_id: BootId
    seq: int
    report: Report


class SimulatedController:
    """Ingest, dispatch, ticker and publisher in virtual time."""

    def __init__(self, *, database: Database, agenda: Agenda, network: Network) -> None:
        self.database, self.agenda, self.network = database, agenda, network
        self.cohorts = MemoryCohorts()
        self.desires = SimulatedDesires(agenda)
        self.pulses = SimulatedPulses(agenda)
        self.devices: dict[DeviceId, SimulatedDevice] = {}
        self.steps = 0
        self._boots = 0
        self._seen: dict[DeviceId, tuple[BootId, int]] = {}
        self._arrived: list[Arrived] = []
        self._pulse = self.pulses.pulse()
        self.rollouts, self.dispatch = self._started()

    def _started(self) -> tuple[RolloutService, Dispatch]:
        rollouts = RolloutService(
            database=self.database,
            cohorts=self.cohorts,
            releases=SimulatedReleases(),
            desires=self.desires,
            pulses=self.pulses,
        )
        # The token bucket waits inside one virtual moment, so it needs a clock that runs on.
        dispatch = Dispatch(database=self.database, rollouts=rollouts, clock=SystemClock(), devices_per_s=1e9)
        return rollouts, dispatch

    def restart(self) -> None:
        """Kill the controller: what was not committed is gone, and so are reports that were not stored."""
        self._arrived.clear()
        self.rollouts, self.dispatch = self._started()

    def enrol(self, device: SimulatedDevice) -> None:
        """Make a device known."""
        self.devices[device.device_id] = device
        self.cohorts.devices[device.device_id] = DeviceFacts(
            device_id=device.device_id,
            site=SiteId("home"),
            labels={},
            hardware=HARDWARE,
            last_seen_at=self.agenda.now(),
        )

    def begin(self) -> None:
        """Start the loops."""
        self.agenda.after(_INGEST_S, self._ingest)
        self.agenda.after(_TICK_S, self._tick)
        self.agenda.after(0.0, self._pulse_again)

    # --- Uplink

    def session(self, device: DeviceId) -> BootId:
        """Return a boot id that is higher than all before it."""
        self._boots += 1
        return BootId(f"{self._boots:012d}")

    def report(self, device: DeviceId, boot_id: BootId, seq: int, report: Report) -> None:
        """Carry a report."""
        arrived = Arrived(device_id=device, boot_id=boot_id, seq=seq, report=report)
        self.network.carry(lambda: self._arrived.append(arrived))

    def heartbeat(self, device: DeviceId) -> None:
        """Carry a heartbeat; a device that is behind is told again."""
        state = self.devices[device].state
        generation = state.desired.generation if state.desired is not None else 0
        self.network.carry(lambda: self._beat(device, generation))

    def ask(self, device: DeviceId) -> None:
        """Answer over HTTPS, if the question and the answer come through."""
        self.network.carry(lambda: self._answer(device))

    # --- loops

    async def _ingest(self) -> None:
        self.agenda.after(_INGEST_S, self._ingest)
        batch, self._arrived = self._arrived, []
        fresh: list[Arrived] = []
        for one in batch:
            self._saw(one.device_id)
            if (one.boot_id, one.seq) > self._seen.get(one.device_id, (BootId(""), 0)):
                self._seen[one.device_id] = (one.boot_id, one.seq)
                fresh.append(one)
        if fresh:
            async with self.database.unit_of_work() as uow:
                await self.rollouts.accept(
                    uow, [SentReport(device_id=one.device_id, report=one.report) for one in fresh]
                )
            await self._settle()
        for one in batch:
            self._ack(one.device_id)

    async def _tick(self) -> None:
        self.agenda.after(_TICK_S, self._tick)
        await self.rollouts.tick()
        await self._settle()

    async def _settle(self) -> None:
        self.steps += 1
        await self.dispatch.drain()
        if self.rollouts.stuck:
            raise InvariantError([f"rollout {name}: {why}" for name, why in self.rollouts.stuck.items()])
        to_publish, self.desires.to_publish = self.desires.to_publish, []
        for device in to_publish:
            self._publish(device)
        if self.pulses.changed:
            self.pulses.changed = False
            self._broadcast()

    async def _pulse_again(self) -> None:
        self.agenda.after(_PULSE_S, self._pulse_again)
        self._broadcast()

    # --- messages

    def _broadcast(self) -> None:
        self._pulse = pulse = self.pulses.pulse()
        for device in self.devices.values():
            self.network.carry(lambda device=device: device.take_pulse(pulse))  # type: ignore[misc] # binds the loop's device

    def _publish(self, device: DeviceId) -> None:
        document = self.desires.documents[device]
        self.network.carry(lambda: self.devices[device].take_desired(document))

    def _ack(self, device: DeviceId) -> None:
        boot_id, seq = self._seen[device]
        self.network.carry(lambda: self.devices[device].take_ack(boot_id, seq))

    def _answer(self, device: DeviceId) -> None:
        self._saw(device)
        pulse = self._pulse
        self.network.carry(lambda: self.devices[device].take_pulse(pulse))
        if device in self.desires.documents:
            self._publish(device)

    def _beat(self, device: DeviceId, generation: int) -> None:
        self._saw(device)
        document = self.desires.documents.get(device)
        if document is not None and generation < document.generation:
            self._publish(device)

    def _saw(self, device: DeviceId) -> None:
        if device in self.cohorts.devices:
            facts = self.cohorts.devices[device]
            self.cohorts.devices[device] = replace(facts, last_seen_at=self.agenda.now())
