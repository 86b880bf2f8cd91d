"""Gates on failed devices: the statistical guard over the whole rollout, and what a single wave may lose."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from controller.rollouts.core.statistics.guard import (
    ACCEPTABLE_FAILURE_SHARE,
    ALPHA,
    failures_that_stop,
    guard_evidence,
    guard_stops,
)
from controller.rollouts.core.statistics.intervals import MIN_DEVICES
from shared.evidence import Verdict

if TYPE_CHECKING:
    from controller.rollouts.core.tally import Tally
    from controller.rollouts.core.types import WaveState


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What one gate says of a wave, and why."""

    verdict: Verdict
    code: str
    sentence: str


def allowed_failures(devices: int) -> int:
    """Return how many failed devices a wave may pass with: none below 10, else the acceptable share, rounded up."""
    return 0 if devices < MIN_DEVICES else ceil(devices * ACCEPTABLE_FAILURE_SHARE)


def raised_peak(peak: float, total: Tally) -> float:
    """Return the running maximum of the guard's evidence: what was once enough stays enough."""
    return max(peak, guard_evidence(exposed=total.exposed, failed=total.failed))


def failure_guard(peak: float, total: Tally) -> GateResult:
    """Judge the failures of the whole rollout: one test, one alpha, however many waves."""
    evidence = f"{total.failed} of {total.exposed} devices failed"
    if guard_stops(peak):
        return GateResult(
            verdict=Verdict.FAIL,
            code="failure_guard",
            sentence=f"{evidence}: more than {ACCEPTABLE_FAILURE_SHARE:.0%} would explain (alpha {ALPHA:.0%})",
        )
    return GateResult(verdict=Verdict.PASS, code="failure_guard", sentence=f"{evidence}: no evidence of a bad release")


def wave_failures(wave: WaveState) -> GateResult:
    """Judge what a wave lost itself, with late failures of earlier waves.

    Below 10 devices one failure fails the wave, since nothing statistical can be said for it; above, more than the
    allowance without enough evidence for the guard is for a person to look at.
    """
    lost = wave.tally.failed + wave.late_failures
    allowed = allowed_failures(wave.devices)
    if lost <= allowed:
        return GateResult(verdict=Verdict.PASS, code="wave_failures", sentence=f"{lost} failed, {allowed} allowed")
    if wave.devices < MIN_DEVICES:
        return GateResult(
            verdict=Verdict.FAIL,
            code="device_failed",
            sentence=f"{_devices(lost)} failed; a wave of {wave.devices} is too small to excuse any",
        )
    return GateResult(
        verdict=Verdict.INCONCLUSIVE,
        code="too_many_failures",
        sentence=f"{_devices(lost)} failed where {allowed} of {wave.devices} are allowed, "
        "too few to blame the release for certain",
    )


def guard_note(devices: int) -> tuple[bool, str]:
    """Say whether the guard can decide in a wave of this size, and with how many failures."""
    needed = failures_that_stop(devices)
    if needed is None:
        return False, "one device is no statistics: any failure of it fails the wave"
    return True, f"stops at {needed} failures if all {devices} devices are told at once, earlier if they come first"


def _devices(amount: int) -> str:
    return f"{amount} device" if amount == 1 else f"{amount} devices"
