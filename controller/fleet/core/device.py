"""What the fleet knows of a device, and how it explains why reality and wish differ."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from shared.traffic import MAIN, line_of

if TYPE_CHECKING:
    from datetime import datetime

    from controller.facts import DesiredFacts
    from shared.hardware import DeviceHardware
    from shared.ids import BootId, DeviceId, Sha256, SiteId
    from shared.wire import AssignmentReport, Report, SlotReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """When a device was heard last, and what it had accepted."""

    at: datetime
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device, as it stands in the fleet."""

    device_id: DeviceId
    site: SiteId
    labels: dict[str, str]
    created_at: datetime
    enrolled_at: datetime | None
    removed_at: datetime | None
    fingerprint: Sha256 | None
    hardware: DeviceHardware | None
    sighting: Sighting | None
    report: Report | None

    @property
    def enrolled(self) -> bool:
        """Whether a key speaks for the device."""
        return self.fingerprint is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One life of a device's control process."""

    boot_id: BootId
    mac_key: bytes


def explanation(device: Device, desired: DesiredFacts | None, *, now: datetime, timeout_s: float) -> str:
    """Say in a sentence why the device does not run what it should; empty when it does."""
    if device.removed_at is not None:
        return "removed from the fleet"
    if not device.enrolled:
        return "invited, but not enrolled yet"
    if device.sighting is None:
        return "enrolled, but never heard of since"
    # Before all that it has said: what a silent device reported is old.
    if now - device.sighting.at > timedelta(seconds=timeout_s):
        return f"silent since {device.sighting.at:%Y-%m-%d %H:%M:%S} UTC"
    return _difference(device, device.sighting, desired)


def _difference(device: Device, sighting: Sighting, desired: DesiredFacts | None) -> str:
    report = device.report
    if desired is None:
        return "nothing is desired of it yet"
    if report is not None and report.desired_refused:
        return f"refuses its desired state: {report.desired_refused}"
    observed = (sighting.epoch, sighting.generation)
    if observed > (desired.epoch, desired.generation):
        return "has seen a newer desired state than the database holds: see --recovered-from-backup"
    if observed < (desired.epoch, desired.generation):
        how = "published" if desired.published else "about to be published"
        return f"generation {desired.generation} is {how}, the device has accepted {sighting.generation}"
    return _activity(report)


def _activity(report: Report | None) -> str:
    if report is None:
        return "has not reported yet"
    if report.stale:
        return "hears no fresh pulse, so it activates nothing"
    stories = [
        f"{_line(entry)}: {entry.phase or entry.status}" + (f" ({entry.reason})" if entry.reason else "")
        for entry in report.assignments
        if entry.phase is not None or entry.reason
    ]
    stories += [f"{_line(slot)}: {slot.unavailable_reason}" for slot in report.slots if slot.unavailable_reason]
    return "; ".join(stories)


def _line(said: AssignmentReport | SlotReport) -> str:
    return line_of(said.model, MAIN if isinstance(said.variant, msgspec.UnsetType) else said.variant)
