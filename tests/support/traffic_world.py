"""Traffic on real devices and documents, with releases in memory."""

# ruff: noqa: ARG002 - ports are handed a unit of work, which memory does not need

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.facts import ArtifactChoice, Misfit, ReleaseFacts
from controller.traffic.service import TrafficService
from shared.errors import NotFoundError
from shared.ids import ModelName, ReleaseId
from shared.request_log import LogConsent
from tests.support.fleet_world import DIGITS, FleetWorld, choice

if TYPE_CHECKING:
    from controller.db.unit_of_work import UnitOfWork
    from shared.hardware import DeviceHardware

FOUR = ReleaseId("00000000-0000-7000-8000-000000000004")
FIVE = ReleaseId("00000000-0000-7000-8000-000000000005")
DOORS_ONE = ReleaseId("00000000-0000-7000-8000-00000000000d")
X86_ONLY = ReleaseId("00000000-0000-7000-8000-000000000086")
_KNOWN = {
    FOUR: (DIGITS, 4, "b"),
    FIVE: (DIGITS, 5, "c"),
    X86_ONLY: (DIGITS, 6, "d"),
    DOORS_ONE: (ModelName("doors"), 1, "e"),
}


class MemoryReleases:
    """Four releases; one of them fits no board, and one consents to request logs."""

    async def facts(self, uow: UnitOfWork, release_id: ReleaseId) -> ReleaseFacts:
        """Return a release."""
        if release_id not in _KNOWN:
            raise NotFoundError(kind="release", name=release_id)
        model, number, _ = _KNOWN[release_id]
        return ReleaseFacts(
            release_id=release_id,
            model=model,
            version_number=number,
            release_counter=number,
            log_consent=LogConsent() if release_id == FIVE else None,
        )

    async def fit(self, uow: UnitOfWork, release_id: ReleaseId, hardware: DeviceHardware) -> ArtifactChoice | Misfit:
        """Return an artifact."""
        if release_id == X86_ONLY and hardware.architecture != "x86_64":
            return Misfit(reason=f"no_fitting_artifact: generic: architecture {hardware.architecture} is not x86_64")
        return choice(_KNOWN[release_id][2])


def traffic_of(world: FleetWorld) -> TrafficService:
    """Return the service on a world's devices and documents."""
    return TrafficService(
        database=world.database,
        devices=world.cohorts,
        releases=MemoryReleases(),
        desires=world.desired,
        pulses=world.pulse,
        clock=world.clock,
    )
