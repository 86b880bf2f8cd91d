"""What goes wrong around a rollout, at moments that follow from the seed."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from tests.support.simulation.device import SimulatedDevice
    from tests.support.simulation.fleet import SimulatedFleet


class Fault(StrEnum):
    """What may befall a device or the controller."""

    CONTROL_KILLED = "control_killed"
    SERVING_KILLED = "serving_killed"
    JOURNAL_LOST = "journal_lost"
    AWAY = "away"
    BACK = "back"
    CONTROLLER_KILLED = "controller_killed"


def strike(fleet: SimulatedFleet, fault: Fault, device: SimulatedDevice) -> None:
    """Let one fault happen now."""
    match fault:
        case Fault.CONTROL_KILLED:
            device.restart_control()
        case Fault.SERVING_KILLED:
            device.restart_serving()
        case Fault.JOURNAL_LOST:
            device.lose_journal()
        case Fault.AWAY:
            device.online = False
        case Fault.BACK:
            device.online = True
        case Fault.CONTROLLER_KILLED:
            fleet.controller.restart()


def disturb(fleet: SimulatedFleet, draw: Random, *, over_s: float, share: float = 0.05) -> None:
    """Spread faults over the next seconds: each kind on a share of the devices, the controller three times."""
    devices = fleet.devices
    for fault in (Fault.CONTROL_KILLED, Fault.SERVING_KILLED, Fault.JOURNAL_LOST, Fault.AWAY):
        for device in draw.sample(devices, max(1, int(len(devices) * share))):
            fleet.agenda.after(
                draw.uniform(0.0, over_s),
                lambda fault=fault, device=device: strike(fleet, fault, device),  # type: ignore[misc] # binds the loop's
            )
    for _ in range(3):
        fleet.agenda.after(draw.uniform(0.0, over_s), fleet.controller.restart)


async def calm(fleet: SimulatedFleet, *, for_s: float = 400.0) -> None:
    """Bring everybody back, mend the network, and let everything come to rest."""
    fleet.network.loss = 0.0
    for device in fleet.devices:
        device.online = device.traffic = True
    await fleet.pass_time(for_s)
    await fleet.audit()
