"""Which gates can decide, and what they decide from."""

from __future__ import annotations

import pytest

from controller.rollouts.core.gates.availability import gate_notes
from controller.rollouts.core.gates.failures import allowed_failures
from controller.rollouts.core.gates.quality import fleet_paired
from controller.rollouts.core.tally import AssignmentFacts, recount
from shared.evidence import Verdict
from tests.support.rollout_core import RULES


@pytest.mark.parametrize(("devices", "allowed"), [(1, 0), (9, 0), (10, 1), (50, 1), (51, 2), (500, 10)])
def test_allowance_is_none_below_ten_devices(devices: int, allowed: int) -> None:
    assert allowed_failures(devices) == allowed


@pytest.mark.parametrize(
    ("devices", "deciding"),
    [
        (1, {"wave_failures", "device_paired"}),
        (2, {"failure_guard", "wave_failures", "device_paired"}),
        (9, {"failure_guard", "wave_failures", "device_paired"}),
        (10, {"failure_guard", "wave_failures", "device_paired", "fleet_paired"}),
    ],
)
def test_notes_say_which_gates_can_decide_in_a_wave(devices: int, deciding: set[str]) -> None:
    notes = gate_notes(devices=devices, min_pairs=30)
    assert {note.gate for note in notes if note.can_decide} == deciding
    assert all(note.why for note in notes)


@pytest.mark.parametrize(
    ("rates", "verdict", "code"),
    [
        ([0] * 9, Verdict.PASS, "too_few_devices"),
        ([900_000] * 9, Verdict.PASS, "too_few_devices"),
        ([10_000] * 10, Verdict.PASS, "fleet_paired"),
        ([300_000] * 10, Verdict.FAIL, "fleet_paired"),
        ([60_000, 140_000] * 5, Verdict.CONTINUE, "fleet_paired"),
    ],
)
def test_fleet_gate_judges_devices_by_their_interval(rates: list[int], verdict: Verdict, code: str) -> None:
    tally = recount(AssignmentFacts(opened=True, flip_ppm=rate) for rate in rates)
    result = fleet_paired(tally, RULES)
    assert (result.verdict, result.code) == (verdict, code)


def test_fleet_gate_does_not_confuse_many_requests_of_few_devices_with_many_devices() -> None:
    nine = recount(AssignmentFacts(opened=True, flip_ppm=500_000) for _ in range(9))
    assert fleet_paired(nine, RULES).code == "too_few_devices"
