"""What a large fleet costs the controller: `python -m tests.bench.controller [DEVICES]`. Not run by the tests.

One SQLite file and the services as wired in the product; only the broker and the releases are in memory. The figures to
watch are those that must not grow with the fleet: an idle tick, a batch of reports, a page of a wave.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from controller.db.bulk import upsert
from controller.dispatch import Dispatch
from controller.fleet.tables import DeviceRow, LabelRow, LastSeenRow
from controller.ingest import Ingest, Sinks
from controller.rollouts.service import RolloutService
from controller.rollouts.spec import RolloutRequest
from shared.clock import SystemClock
from shared.errors import NotFoundError
from shared.ids import BootId, DeviceId, Epoch, Generation, Sha256
from shared.topics import Channel
from shared.wire import NO_BODY, AssignmentReport, AssignmentStatus, HaltMode, ProbationPolicy, Report, SlotReport
from tests.support.database import opened_database, sqlite_url
from tests.support.fleet_world import HARDWARE, FleetWorld, TestDevice, heartbeat, intent
from tests.support.rollout_ports import MODEL, V1, MemoryReleases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from controller.db.engine import Database
    from shared.ids import RolloutId

BATCH = 500
ROUNDS = 5
BOOT = BootId(f"{1:012d}")


class Fleet:
    """A controller whose devices were enrolled by writing their rows."""

    def __init__(self, database: Database, folder: Path, devices: int) -> None:
        self.database, self.clock = database, SystemClock()
        self.world = FleetWorld(database, self.clock, folder)  # type: ignore[arg-type]  # nobody moves this clock
        self.names = [DeviceId(f"d-{number:06d}") for number in range(devices)]
        self.rollouts = RolloutService(
            database=database,
            cohorts=self.world.cohorts,
            releases=MemoryReleases(),
            desires=self.world.desired,
            pulses=self.world.pulse,
        )
        self.dispatch = Dispatch(database=database, rollouts=self.rollouts, clock=self.clock, devices_per_s=1e9)
        self.ingest = Ingest(
            database=database,
            source=self.world.broker,
            proof=self.world.trust.report_keys,
            order=self.world.uplinks,
            sinks=Sinks(
                reports=(self.world.uplinks, self.rollouts),
                heartbeats=(self.world.uplinks.seen, self.world.desired.observed),
                telemetry=self.world.telemetry,
            ),
            clock=self.clock,
        )
        self._seq = 0

    async def enrol(self) -> None:
        """Write all devices: enrolled, labelled, seen a moment ago."""
        now = self.clock.now()
        fixed = {"site": "north", "created_at": now, "enrolled_at": now, "hardware": HARDWARE, "boot_serial": 1}
        devices = [
            {**fixed, "device_id": name, "fingerprint": f"{place:064x}", "architecture": HARDWARE.architecture}
            for place, name in enumerate(self.names)
        ]
        async with self.database.unit_of_work() as uow:
            await upsert(uow.session, DeviceRow, devices)
            labels = [{"device_id": name, "key": "ring", "value": f"r{place % 10}"} for place, name in self._numbered()]
            await upsert(uow.session, LabelRow, labels)
            seen = [{"device_id": name, "at": now, "epoch": 1, "generation": 0} for name in self.names]
            await upsert(uow.session, LastSeenRow, seen)

    async def start(self, *waves: str) -> RolloutId:
        """Start a rollout over everybody."""
        request = RolloutRequest(
            release_id=V1,
            cohort="all",
            waves=waves,
            soak_s=0.0,
            on_failure=HaltMode.REVERT,
            policy=ProbationPolicy(),
            wave_deadline_s=86_400.0,
            unreachable_after_s=600.0,
            override_blacklist=False,
        )
        return (await self.rollouts.create(request, actor="bench")).spec.rollout_id

    async def say(self, channel: Channel, names: Sequence[DeviceId], rollout: RolloutId | None = None) -> None:
        """Let devices send one message each, in one batch."""
        self._seq += 1
        body = heartbeat() if channel is Channel.HEARTBEAT else _report(self.clock, rollout)
        batch = [self._device(name).says(channel, body, at=self.clock.now(), seq=self._seq) for name in names]
        await self.ingest.take(batch)

    async def told(self, rollout: RolloutId) -> list[DeviceId]:
        """Return some devices that a rollout is waiting for."""
        found = await self.rollouts.assignments(rollout, after=None, limit=len(self.names))
        return [one.device_id for one in found if one.opened_at and one.status is AssignmentStatus.QUEUED][:BATCH]

    def _numbered(self) -> list[tuple[int, DeviceId]]:
        return list(enumerate(self.names))

    def _device(self, name: DeviceId) -> TestDevice:
        key = self.world.trust.report_keys.mac_key(name, BOOT)
        return TestDevice(name, None, Sha256(""), boot_id=BOOT, mac_key=key)  # type: ignore[arg-type]  # signs nothing


def _report(clock: SystemClock, rollout: RolloutId | None) -> Report:
    said = (
        AssignmentReport(
            model=MODEL,
            release_id=V1,
            rollout_id=rollout,
            attempt=1,
            status=AssignmentStatus.SUCCEEDED,
            activated=True,
            changed_at=clock.now(),
        )
        if rollout
        else None
    )
    return Report(
        epoch=Epoch(1),
        generation=Generation(1),
        body_digest=NO_BODY,
        agent_version="1",
        hardware=HARDWARE,
        slots=(SlotReport(model=MODEL, stable=V1),),
        assignments=(said,) if said else (),
    )


async def measure(what: str, call: Callable[[], Awaitable[object]], *, rounds: int = ROUNDS) -> None:
    """Print the median time of a call."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1000)
    median = sorted(took)[len(took) // 2]
    print(f"{what:<58} {median:10.1f} ms")  # noqa: T201 - its purpose


async def run(devices: int) -> None:
    """Measure everything on a fleet of so many devices."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with opened_database(sqlite_url(folder), clock=SystemClock()) as database:
            fleet = Fleet(database, folder, devices)
            await measure(f"write {devices} devices", fleet.enrol, rounds=1)
            await _measured(fleet)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory of the process':<58} {peak:10.1f} MiB")  # noqa: T201 - its purpose


async def _measured(fleet: Fleet) -> None:
    page, world = fleet.names[:BATCH], fleet.world
    letters = iter("bcdef0123456789")

    async def register() -> None:
        await world.fleet.register(f"new-{time.monotonic_ns()}", site="north", labels={"ring": "r1"}, actor="bench")

    async def desire() -> None:
        letter = next(letters)
        await world.desire(*(intent(name, letter=letter) for name in page))

    await measure("register a device", register)
    await measure(f"ingest {BATCH} heartbeats", lambda: fleet.say(Channel.HEARTBEAT, page))
    await measure(f"ingest {BATCH} reports, no rollout", lambda: fleet.say(Channel.REPORT, page))
    await measure(f"compose, seal and store {BATCH} Desired", desire)
    await measure("publish a page, broker in memory", world.publisher.publish_pending, rounds=1)
    await measure("look for unpublished, none", world.publisher.publish_pending)
    await measure("rollout tick, no rollout", fleet.rollouts.tick)
    await _rollout(fleet)
    await measure("look for what is to be sealed again, none", world.desired.reseal_due)
    await measure("rollout tick, wave 2 half told", fleet.rollouts.tick)
    await measure("find a target in the repository", lambda: asyncio.to_thread(_find, fleet))


def _find(fleet: Fleet) -> None:
    with contextlib.suppress(NotFoundError):
        fleet.world.trust.repository.find("artifacts/none.tflite")


async def _rollout(fleet: Fleet) -> None:
    started: list[RolloutId] = []

    async def create() -> None:
        started.append(await fleet.start("1", "100%"))

    await measure("plan and start a rollout over everybody", create, rounds=1)
    await measure("find and tell wave 1 (1 device)", fleet.dispatch.drain, rounds=1)
    rollout = started[0]
    await fleet.say(Channel.REPORT, await fleet.told(rollout), rollout)
    await measure("wave 1 passes, all members of wave 2 are found", fleet.dispatch.drain, rounds=1)
    await measure("rollout tick in wave 2", fleet.rollouts.tick)
    for _ in range(8):
        told = await fleet.told(rollout)
        results = functools.partial(fleet.say, Channel.REPORT, told, rollout)
        await measure(f"ingest {len(told)} results", results, rounds=1)
        await measure("count them and tell the next", fleet.dispatch.drain, rounds=1)


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
