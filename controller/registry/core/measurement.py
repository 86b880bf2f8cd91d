"""What devices measured of artifacts, and what that means for the budgets of hardware profiles.

Without a measurement the converter's own figure stands. With one, the device's stands in its place, for every profile
that the device belongs to; of several devices the slowest, since the class holds it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from controller.registry.core.types import ArtifactSummary
from shared.conversion import CheckOutcome
from shared.hardware import misfit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from shared.conversion import ConvertedArtifact, RuntimeCheck
    from shared.hardware import DeviceHardware, HardwareProfile, Runtime
    from shared.ids import ConversionId, DeviceId, HardwareProfileId, MeasurementId, Sha256
    from shared.wire import Figures

AT_ONCE = 4
"""Artifacts that one device is asked to time at a time; the others wait their turn here."""
DEADLINE = timedelta(hours=1)
"""After which a device has failed: long enough to fetch four files over a slow link, and for a rollout to go before."""
_LATENCY, _OTHER = "latency:", "another:"
CONVERTER = "converter"


class MeasurementState(StrEnum):
    """Where a measurement stands; the last two are terminal, until it is asked for again."""

    QUEUED = "queued"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"


OPEN = frozenset({MeasurementState.QUEUED, MeasurementState.SENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One artifact of one conversion on one device."""

    conversion_id: ConversionId
    sha256: Sha256
    device_id: DeviceId
    measurement_id: MeasurementId
    """A new one each time it is asked for."""
    length_bytes: int
    state: MeasurementState
    hardware: DeviceHardware
    """Of the device when it was asked; with a result, when it answered."""
    figures: Figures | None
    """Of the newest time that it was done; they stand while it is timed again."""
    reason: str
    """Why it failed."""
    ordered_at: datetime
    sent_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetVerdict:
    """Whether an artifact keeps the latency budget of a profile, and by whose word."""

    profile_id: HardwareProfileId
    max_latency_ms: float
    latency_p95_ms: float
    measured_on: str
    """`converter`, or the device."""
    kept: bool


def classes_of(profiles: Sequence[HardwareProfile], hardware: DeviceHardware) -> tuple[HardwareProfile, ...]:
    """Return the profiles that a device belongs to."""
    return tuple(profile for profile in profiles if misfit(profile, hardware) is None)


def measurable(
    artifacts: Sequence[ArtifactSummary], profiles: Sequence[HardwareProfile]
) -> tuple[ArtifactSummary, ...]:
    """Return the artifacts that one of these profiles could have, were it for latency alone."""
    # What was refused itself is wrong or lost too much: a device has no business running it.
    return tuple(
        artifact
        for artifact in artifacts
        if not artifact.refused and any(not _other_refusal(artifact, profile) for profile in profiles)
    )


def judged(
    artifacts: Sequence[ConvertedArtifact], profiles: Sequence[HardwareProfile], measured: Sequence[Measurement]
) -> tuple[ConvertedArtifact, ...]:
    """Return the artifacts with the devices' figures in place of the converter's."""
    # Where no device spoke, the converter's choice stands as it is.
    concerned = tuple(
        profile
        for profile in profiles
        if any(one.figures is not None and misfit(profile, one.hardware) is None for one in measured)
    )
    return tuple(_judged(artifact, concerned, measured) for artifact in artifacts)


def budgets(
    artifact: ArtifactSummary, profiles: Sequence[HardwareProfile], measured: Sequence[Measurement]
) -> tuple[BudgetVerdict, ...]:
    """Return, for each profile with a budget for latency, whether an artifact keeps it."""
    return tuple(
        _verdict(artifact, profile, profile.max_latency_ms, measured)
        for profile in profiles
        if profile.max_latency_ms is not None
    )


def timed_out(measurement: Measurement, now: datetime) -> bool:
    """Tell whether a device has had its time; one that was asked far in the future was asked under a wrong clock."""
    return measurement.sent_at is not None and abs(now - measurement.sent_at) >= DEADLINE


def _verdict(
    artifact: ArtifactSummary, profile: HardwareProfile, max_latency_ms: float, measured: Sequence[Measurement]
) -> BudgetVerdict:
    slowest = _slowest(artifact.sha256, profile, measured)
    p95_ms = artifact.latency_p95_ms if slowest is None else slowest[1].cpu_p95_ms
    return BudgetVerdict(
        profile_id=profile.profile_id,
        max_latency_ms=max_latency_ms,
        latency_p95_ms=p95_ms,
        measured_on=CONVERTER if slowest is None else slowest[0],
        kept=p95_ms <= max_latency_ms,
    )


def _judged(
    artifact: ConvertedArtifact, profiles: Sequence[HardwareProfile], measured: Sequence[Measurement]
) -> ConvertedArtifact:
    refused_for, report = dict(artifact.refused_for), artifact.report
    for profile in profiles:
        slowest = _slowest(artifact.sha256, profile, measured)
        if slowest is None:
            # It passed, and was not the converter's choice: when a device refuses that one, it may take its place.
            if refused_for.get(profile.profile_id, "").startswith(_OTHER):
                del refused_for[profile.profile_id]
            continue
        device_id, figures = slowest
        reason = _other_refusal(artifact, profile) or _too_slow(figures, profile, device_id)
        refused_for.pop(profile.profile_id, None)
        if reason:
            refused_for[profile.profile_id] = reason
        if report.measured_on in {"", CONVERTER} or figures.cpu_p95_ms > report.latency_p95_ms:
            report = msgspec.structs.replace(
                report,
                latency_p95_ms=figures.cpu_p95_ms,
                peak_memory_bytes=figures.peak_memory_bytes,
                measured_on=device_id,
            )
    return msgspec.structs.replace(artifact, refused_for=refused_for, report=report)


def _slowest(
    sha256: Sha256, profile: HardwareProfile, measured: Sequence[Measurement]
) -> tuple[DeviceId, Figures] | None:
    found = [
        (one.device_id, one.figures)
        for one in measured
        if one.sha256 == sha256 and one.figures is not None and misfit(profile, one.hardware) is None
    ]
    return max(found, key=lambda one: one[1].cpu_p95_ms, default=None)


def _too_slow(figures: Figures, profile: HardwareProfile, device_id: DeviceId) -> str:
    if profile.max_latency_ms is None or figures.cpu_p95_ms <= profile.max_latency_ms:
        return ""
    return f"{_LATENCY} p95 {figures.cpu_p95_ms:.3g} ms > {profile.max_latency_ms:g} ms on device {device_id}"


def _other_refusal(artifact: ConvertedArtifact | ArtifactSummary, profile: HardwareProfile) -> str:
    """Return why a profile may not have an artifact, whatever its latency."""
    said = artifact.refused_for.get(profile.profile_id, "")
    if said and not said.startswith((_LATENCY, _OTHER)):
        return said
    # The converter names one reason only: behind its word on latency there may be another.
    checks = artifact.runtimes if isinstance(artifact, ArtifactSummary) else artifact.report.runtimes
    return _wrong_answers(checks, profile.runtime) or _too_large(artifact.length_bytes, profile)


def _wrong_answers(checks: Sequence[RuntimeCheck], runtime: Runtime) -> str:
    for check in checks:
        if check.runtime is runtime and check.outcome is CheckOutcome.FAILED:
            return f"runtime: {check.runtime} {check.version}: {check.reason}"
    return ""


def _too_large(length_bytes: int, profile: HardwareProfile) -> str:
    if profile.max_size_bytes is None or length_bytes <= profile.max_size_bytes:
        return ""
    return f"size: {length_bytes:,} bytes > {profile.max_size_bytes:,}"
