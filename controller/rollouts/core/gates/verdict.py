"""One verdict for a wave, with its precedence: guard FAIL > quality FAIL > deadline INCONCLUSIVE > PASS."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from controller.rollouts.core.gates.failures import GateResult, failure_guard, wave_failures
from controller.rollouts.core.gates.quality import device_paired, fleet_paired
from shared.evidence import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.rollouts.core.types import RolloutState, WaveState

INSUFFICIENT_DATA = "insufficient_data"
"""Nothing can be said of the wave, because none of its devices gave a result."""


def judge(state: RolloutState, wave: WaveState, *, at: datetime, waits_for: Sequence[str] = ()) -> GateResult:
    """Return the verdict on the open wave."""
    fleet = fleet_paired(wave.tally, state.rules)
    losses = wave_failures(wave)
    for gate in (failure_guard(state.guard_peak, state.total), losses, fleet):
        if gate.verdict is Verdict.FAIL:
            return gate
    if not wave.settled:
        return _unsettled(wave, at=at, waits_for=waits_for)
    # No device succeeded and none failed enough: silence is no proof, and never passes.
    if wave.tally.succeeded == 0:
        return _no_data(state, wave)
    if losses.verdict is Verdict.INCONCLUSIVE:
        return losses
    if fleet.verdict is Verdict.CONTINUE:
        # Every device has its result, so that no further evidence can come.
        return GateResult(verdict=Verdict.INCONCLUSIVE, code=fleet.code, sentence=f"{fleet.sentence}: undecided")
    return _soaking(state, wave, at)


def _unsettled(wave: WaveState, *, at: datetime, waits_for: Sequence[str]) -> GateResult:
    waiting = _awaited(wave, waits_for)
    if wave.deadline_at is None or at < wave.deadline_at:
        return GateResult(verdict=Verdict.CONTINUE, code="waiting", sentence=f"wave {wave.number} waits for {waiting}")
    devices = device_paired(wave)
    why = f"; {devices.sentence}" if devices.verdict is not Verdict.PASS else ""
    return GateResult(
        verdict=Verdict.INCONCLUSIVE,
        code="deadline",
        sentence=f"wave {wave.number} ran out of time waiting for {waiting}{why}",
    )


def _awaited(wave: WaveState, waits_for: Sequence[str]) -> str:
    tally = wave.tally
    parts = [
        (tally.in_progress, "at work"),
        (tally.undecided, "undecided"),
        (tally.queued, "told but not started"),
        (tally.waiting, "not told yet"),
    ]
    there = [(amount, words) for amount, words in parts if amount > 0]
    if not there:
        return "its devices to be found"
    total = sum(amount for amount, _ in there)
    devices = "device" if total == 1 else "devices"
    if len(there) == 1:
        said = f"{total} {devices} {there[0][1]}"
    else:
        said = f"{total} {devices}: " + ", ".join(f"{amount} {words}" for amount, words in there)
    return said + (f" ({', '.join(waits_for)})" if waits_for else "")


def _no_data(state: RolloutState, wave: WaveState) -> GateResult:
    tally = wave.tally
    if tally.members == 0 and wave.is_last and state.total.succeeded > 0:
        # Who was to be in it has left the cohort; what is there has proved itself in the waves before.
        return GateResult(verdict=Verdict.PASS, code="nobody_left", sentence=f"wave {wave.number} has no device left")
    said = f"{tally.unreachable} not seen, {tally.dismissed} not able to take it, {tally.failed} failed"
    if tally.members == 0:
        said = "it has none any more"
    return GateResult(
        verdict=Verdict.INCONCLUSIVE,
        code=INSUFFICIENT_DATA,
        sentence=f"no device of wave {wave.number} gave a result: {said}",
    )


def _soaking(state: RolloutState, wave: WaveState, at: datetime) -> GateResult:
    until = (wave.settled_at or at) + timedelta(seconds=state.rules.soak_s)
    if at < until:
        # A time of day, and no countdown: the sentence is stored, and must not change with every tick.
        return GateResult(
            verdict=Verdict.CONTINUE, code="soaking", sentence=f"wave {wave.number} soaks until {until:%H:%M:%S} UTC"
        )
    tally = wave.tally
    excused = f", {tally.unreachable} not seen" if tally.unreachable else ""
    return GateResult(
        verdict=Verdict.PASS,
        code="wave_passed",
        sentence=f"wave {wave.number} passed: {tally.succeeded} of {tally.members} devices succeeded{excused}",
    )
