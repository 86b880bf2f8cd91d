"""Which gates can decide in a wave of a given size: said when a rollout is planned, not found out afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from controller.rollouts.core.gates.failures import allowed_failures, guard_note
from controller.rollouts.core.statistics.intervals import MIN_DEVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class GateNote:
    """Whether one gate can decide, and why."""

    gate: str
    can_decide: bool
    why: str


def gate_notes(*, devices: int, min_pairs: int) -> tuple[GateNote, ...]:
    """Return what each gate can do in a wave of this many devices."""
    guard_decides, guard_why = guard_note(devices)
    small = devices < MIN_DEVICES
    if small:
        fleet = f"too_few_devices: {devices}, it needs {MIN_DEVICES}"
        failures = "any device that fails or reverts fails the wave"
    else:
        fleet = f"decides once {MIN_DEVICES} devices compared {min_pairs} requests each"
        failures = f"passes with at most {allowed_failures(devices)} failed; more is held for a person"
    paired = f"each device compares at least {min_pairs} of its own requests with its old release, if it has one"
    return (
        GateNote(gate="failure_guard", can_decide=guard_decides, why=guard_why),
        GateNote(gate="wave_failures", can_decide=True, why=failures),
        GateNote(gate="device_paired", can_decide=True, why=paired),
        GateNote(gate="fleet_paired", can_decide=not small, why=fleet),
    )
