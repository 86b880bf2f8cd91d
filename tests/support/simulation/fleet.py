"""A whole simulation: a controller, its devices, their faults, and the invariants that are checked all along."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from controller.rollouts import store
from controller.rollouts.core.invariants import (
    AssignmentFact,
    DeviceEnd,
    InvariantError,
    RolloutWorld,
    check_all,
    check_ends,
)
from controller.rollouts.core.types import ENDED, RolloutState, RolloutStatus
from controller.rollouts.spec import Assignment, RolloutRequest
from shared.ids import DeviceId, ReleaseId, RolloutId
from shared.wire import TERMINAL, HaltMode, ProbationPolicy
from tests.support.database import opened_database, sqlite_url
from tests.support.simulation.controller import SimulatedController
from tests.support.simulation.device import Nature, SimulatedDevice
from tests.support.simulation.virtual_time import Agenda, Network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GOOD, BETTER, BAD = ReleaseId("release-1"), ReleaseId("release-2"), ReleaseId("release-3")
BROKEN, SLOW = ReleaseId("release-4"), ReleaseId("release-5")
NATURES = {
    GOOD: Nature(),
    BETTER: Nature(flip_rate=0.03),
    BAD: Nature(flip_rate=0.4),
    BROKEN: Nature(error_rate=0.2),
    SLOW: Nature(slow_rate=0.95),
}
_AUDIT_EVERY = 100
_LONG_S = 3600.0


@dataclass(kw_only=True)
class SimulatedFleet:
    """What a test drives."""

    agenda: Agenda
    network: Network
    controller: SimulatedController
    draw: Random
    natures: dict[ReleaseId, Nature] = field(default_factory=lambda: dict(NATURES))
    _audited: int = 0

    def add(self, amount: int, *, prefix: str = "d") -> None:
        """Enrol devices and start them."""
        for n in range(amount):
            device = SimulatedDevice(
                DeviceId(f"{prefix}-{n:03d}"),
                agenda=self.agenda,
                draw=Random(self.draw.getrandbits(64)),
                uplink=self.controller,
                natures=self.natures,
            )
            self.controller.enrol(device)
            device.start()

    @property
    def devices(self) -> list[SimulatedDevice]:
        """All devices, by name."""
        return [self.controller.devices[name] for name in sorted(self.controller.devices)]

    def request(self, release: ReleaseId, **changes: object) -> RolloutRequest:
        """Return a rollout that is quick in virtual time."""
        values: dict[str, object] = {
            "release_id": release,
            "cohort": "all",
            "waves": ("1", "25%", "100%"),
            "soak_s": 10.0,
            "on_failure": HaltMode.REVERT,
            "policy": ProbationPolicy(probation_s=5.0, deadline_s=300.0),
            "wave_deadline_s": 900.0,
            "unreachable_after_s": 300.0,
            "override_blacklist": False,
        }
        return RolloutRequest(**{**values, **changes})  # type: ignore[arg-type] # a test names the fields it means

    async def start(self, release: ReleaseId, **changes: object) -> RolloutId:
        """Start a rollout."""
        await self.pass_time(1.0)
        stored = await self.controller.rollouts.create(self.request(release, **changes), actor="olivia")
        return stored.spec.rollout_id

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, audited."""
        end = self.agenda.seconds + seconds
        while self.agenda.seconds < end:
            left = end - self.agenda.seconds
            due = await self.agenda.run_until(
                lambda: self.controller.steps - self._audited >= _AUDIT_EVERY, at_most_s=left
            )
            if due:
                await self.audit()

    async def until_ended(self, rollout: RolloutId) -> RolloutState:
        """Let time pass until a rollout has ended, paused for a person, or hangs."""
        end = self.agenda.seconds + _LONG_S
        while self.agenda.seconds < end:
            await self.pass_time(10.0)
            state = await self.state(rollout)
            if state.status in ENDED or state.status is RolloutStatus.PAUSED:
                await self.audit()
                return state
        return await self.state(rollout)

    async def state(self, rollout: RolloutId) -> RolloutState:
        """Return how a rollout stands."""
        return (await self.controller.rollouts.get(rollout)).state

    async def assignments(self, rollout: RolloutId) -> list[Assignment]:
        """Return all assignments of a rollout."""
        return await self.controller.rollouts.assignments(rollout, after=None, limit=100_000)

    async def audit(self) -> None:
        """Recount everything, and look at what devices activated."""
        self._audited = self.controller.steps
        worlds = []
        async with self.controller.database.unit_of_work(read_only=True) as uow:
            pending = await self.controller.database.pending("rollout_evidence", 1)
            for stored in await store.rollouts_page(uow, None, 100):
                rules = stored.spec.request.rules
                rows = await store.assignments_page(uow, stored.spec.rollout_id, None, 100_000)
                self._check_exposure(stored.state, rows)
                facts = tuple(
                    AssignmentFact(device=one.device_id, wave=one.wave, facts=one.core_facts(rules)) for one in rows
                )
                worlds.append(RolloutWorld(model=stored.spec.model, state=stored.state, assignments=facts))
        if not pending:
            check_all(worlds)
        self._check_halts()

    async def check_ends(self, rollout: RolloutId) -> None:
        """Check that every device runs what is desired or is named with a reason."""
        named = {
            one.device_id: f"{one.status}: {one.reason}"
            for one in await self.assignments(rollout)
            if (one.status in TERMINAL and one.reason) or one.unreachable or one.going_back
        }
        check_ends(
            DeviceEnd(
                device=device.device_id,
                desired=self.controller.desires.desired_release(device.device_id),
                running=device.running,
                named=named.get(device.device_id, ""),
            )
            for device in self.devices
        )

    def _check_exposure(self, state: RolloutState, rows: list[Assignment]) -> None:
        """Count what devices really did, not what they told."""
        waves = {one.device_id: one.wave for one in rows}
        touched = [
            device.device_id
            for device in self.devices
            if any(rollout == state.rollout_id for _, rollout in device.activations)
        ]
        strangers = [device for device in touched if device not in waves]
        broken = [f"devices {strangers} activated without an assignment"] if strangers else []
        for wave in state.waves:
            exposed = sum(waves.get(device) == wave.number for device in touched)
            if not wave.is_last and exposed > wave.spec.size:
                broken.append(f"wave {wave.number} exposed {exposed} devices, {wave.spec.size} planned")
        if broken:
            raise InvariantError(broken)

    def _check_halts(self) -> None:
        """Nothing activates once the last Pulse that allowed it has grown too old."""
        late = [
            f"{device.device_id} activated {rollout} {at - halted_at:.0f} s after its halt"
            for device in self.devices
            for at, rollout in device.activations
            if (halted_at := self.controller.pulses.halted_at.get(rollout)) is not None
            and at - halted_at > device.settings.pulse_max_age_s
        ]
        if late:
            raise InvariantError(late)


@contextlib.asynccontextmanager
async def simulated_fleet(folder: Path, *, seed: int, devices: int, loss: float = 0.3) -> AsyncIterator[SimulatedFleet]:
    """Open a fleet whose every event follows from the seed."""
    draw = Random(seed)
    agenda = Agenda()
    network = Network(agenda=agenda, draw=Random(draw.getrandbits(64)), loss=loss)
    async with opened_database(sqlite_url(folder), clock=agenda) as database:
        controller = SimulatedController(database=database, agenda=agenda, network=network)
        fleet = SimulatedFleet(agenda=agenda, network=network, controller=controller, draw=draw)
        fleet.add(devices)
        controller.begin()
        yield fleet
