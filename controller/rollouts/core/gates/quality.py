"""Gates on answers: the device's own paired comparison, and the fleet's over devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.rollouts.core.gates.failures import GateResult
from controller.rollouts.core.statistics.intervals import MIN_DEVICES, Interval, anytime_interval
from controller.rollouts.core.tally import PPM
from shared.evidence import Verdict

if TYPE_CHECKING:
    from controller.rollouts.core.tally import Tally
    from controller.rollouts.core.types import Rules, WaveState

FLEET_ALPHA = 0.01
"""Chance that the fleet's paired gate is wrong, over all looks together."""


def fleet_paired(tally: Tally, rules: Rules) -> GateResult:
    """Judge the mean flip rate over the devices of a wave against the margin; each device is its own control."""
    code = "fleet_paired"
    if tally.paired < MIN_DEVICES:
        return GateResult(
            verdict=Verdict.PASS,
            code="too_few_devices",
            sentence=f"{tally.paired} devices compared enough requests, the fleet's gate needs {MIN_DEVICES}; "
            "each device's own comparison decides",
        )
    where = _flip_interval(tally, rules)
    said = (
        f"devices answer {where.low:.1%} to {where.high:.1%} of requests differently, {rules.max_flip_rate:.1%} allowed"
    )
    if where.low > rules.max_flip_rate:
        return GateResult(verdict=Verdict.FAIL, code=code, sentence=said)
    if where.high <= rules.max_flip_rate:
        return GateResult(verdict=Verdict.PASS, code=code, sentence=said)
    return GateResult(verdict=Verdict.CONTINUE, code=code, sentence=said)


def device_paired(wave: WaveState) -> GateResult:
    """Judge the devices' own comparisons: one that could not decide is no success, and no failure."""
    undecided = wave.tally.undecided
    if undecided == 0:
        return GateResult(verdict=Verdict.PASS, code="device_paired", sentence="no device is undecided")
    return GateResult(
        verdict=Verdict.CONTINUE,
        code="device_paired",
        sentence=f"{undecided} of {wave.devices} devices saw too few requests to compare the release with the old one",
    )


def _flip_interval(tally: Tally, rules: Rules) -> Interval:
    margin = rules.max_flip_rate
    found = anytime_interval(
        devices=tally.paired,
        total=tally.flip_ppm / PPM,
        total_squared=tally.flip_ppm_squared / PPM**2,
        tau=margin,
        # Half a pair: devices that count so few cannot agree more closely than that.
        min_sd=0.5 / max(rules.min_pairs, 1),
        alpha=FLEET_ALPHA,
    )
    return Interval(low=max(found.low, 0.0), high=min(found.high, 1.0))
