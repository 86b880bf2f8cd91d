"""The one verdict on a wave: which gate speaks first, and in which words."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rollouts.core.gates.failures import failure_guard, raised_peak, wave_failures
from controller.rollouts.core.gates.verdict import judge
from controller.rollouts.core.statistics.guard import failures_that_stop, guard_evidence, guard_stops
from controller.rollouts.core.tally import AssignmentFacts, Tally, recount
from controller.rollouts.core.types import RolloutState, WaveSpec, WaveState, WaveStatus
from shared.evidence import Verdict
from shared.ids import RolloutId
from shared.wire import AssignmentStatus
from tests.support.rollout_core import RULES, START

_S = AssignmentStatus
_DEADLINE = START + timedelta(hours=1)


def _facts(status: AssignmentStatus, amount: int, **values: object) -> list[AssignmentFacts]:
    return [AssignmentFacts(status=status, opened=True, **values)] * amount  # type: ignore[arg-type] # named by a test


def _wave(*groups: list[AssignmentFacts], **values: object) -> WaveState:
    tally = recount(one for group in groups for one in group)
    spec = WaveSpec(expression="100%", lo=0, hi=1, size=max(tally.members, 1))
    wave = WaveState(
        number=1,
        spec=spec,
        is_last=False,
        status=WaveStatus.RUNNING,
        tally=tally,
        complete=True,
        deadline_at=_DEADLINE,
        settled_at=START,
    )
    return replace(wave, **values)  # type: ignore[arg-type] # as above


def _state(wave: WaveState, *others: WaveState, guard_peak: float | None = None) -> RolloutState:
    state = RolloutState(rollout_id=RolloutId("r"), rules=RULES, waves=(wave, *others))
    return replace(state, guard_peak=raised_peak(0.0, state.total) if guard_peak is None else guard_peak)


def _said(wave: WaveState, *, seconds: float = 0.0) -> tuple[Verdict, str]:
    result = judge(_state(wave), wave, at=START + timedelta(seconds=seconds))
    return result.verdict, result.code


_DONE = _facts(_S.SUCCEEDED, 20)


@pytest.mark.parametrize(
    ("wave", "seconds", "verdict", "code"),
    [
        (_wave(_facts(_S.FAILED, 2), _facts(_S.QUEUED, 98)), 0, Verdict.FAIL, "failure_guard"),
        (_wave(_facts(_S.FAILED, 1), _facts(_S.QUEUED, 1)), 0, Verdict.FAIL, "device_failed"),
        (_wave(_facts(_S.SUCCEEDED, 12, flip_ppm=400_000), _facts(_S.QUEUED, 1)), 0, Verdict.FAIL, "fleet_paired"),
        (_wave(_DONE, _facts(_S.IN_PROGRESS, 1)), 3599, Verdict.CONTINUE, "waiting"),
        (_wave(_DONE, _facts(_S.IN_PROGRESS, 1)), 3600, Verdict.INCONCLUSIVE, "deadline"),
        (_wave(_facts(_S.CANCELED, 3)), 3600, Verdict.INCONCLUSIVE, "insufficient_data"),
        (_wave(_DONE, _facts(_S.FAILED, 2)), 3600, Verdict.INCONCLUSIVE, "too_many_failures"),
        (_wave(_DONE), 59, Verdict.CONTINUE, "soaking"),
        (_wave(_DONE), 60, Verdict.PASS, "wave_passed"),
        (_wave(_DONE, _facts(_S.FAILED, 1)), 60, Verdict.PASS, "wave_passed"),
    ],
)
def test_verdict_on_a_wave_is_as_the_precedence_says(
    wave: WaveState, seconds: float, verdict: Verdict, code: str
) -> None:
    assert _said(wave, seconds=seconds) == (verdict, code)


@pytest.mark.parametrize("seconds", [0, 3600, 10**6])
def test_verdict_of_failure_does_not_wait_for_a_deadline(seconds: float) -> None:
    assert _said(_wave(_facts(_S.FAILED, 3), _facts(_S.QUEUED, 20)), seconds=seconds)[0] is Verdict.FAIL


def test_wave_without_a_deadline_waits_on() -> None:
    assert _said(_wave(_facts(_S.IN_PROGRESS, 1), deadline_at=None), seconds=10**9) == (Verdict.CONTINUE, "waiting")


def test_wave_whose_members_are_not_all_found_never_passes() -> None:
    assert _said(_wave(_DONE, complete=False), seconds=10**6)[0] is Verdict.INCONCLUSIVE


def test_wave_with_devices_asked_for_and_not_yet_told_never_passes() -> None:
    wave = _wave(_DONE, [AssignmentFacts()], requested=1)
    assert _said(wave, seconds=61)[0] is Verdict.CONTINUE


def test_soak_counts_from_when_the_wave_settled() -> None:
    wave = _wave(_DONE, settled_at=START + timedelta(seconds=30))
    assert _said(wave, seconds=89)[1] == "soaking"
    assert _said(wave, seconds=90)[1] == "wave_passed"


def test_wave_that_lost_the_evidence_of_its_guard_is_still_stopped_by_its_peak() -> None:
    wave = _wave(_DONE)
    assert judge(_state(wave, guard_peak=100.0), wave, at=START).code == "failure_guard"


def test_last_wave_with_nobody_in_it_passes_when_others_have_proved_themselves() -> None:
    before = _wave(_DONE, status=WaveStatus.SUCCEEDED)
    last = _wave(number=2, is_last=True)
    assert judge(_state(before, last), last, at=START).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("before", "last"),
    [
        pytest.param(_wave(_DONE), _wave(number=2), id="not the last"),
        pytest.param(_wave(_facts(_S.CANCELED, 1)), _wave(number=2, is_last=True), id="nobody succeeded"),
        pytest.param(_wave(_DONE), _wave(_facts(_S.CANCELED, 1), number=2, is_last=True), id="members without result"),
    ],
)
def test_wave_without_a_result_is_else_inconclusive(before: WaveState, last: WaveState) -> None:
    assert judge(_state(before, last), last, at=START).code == "insufficient_data"


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        (_wave(_facts(_S.IN_PROGRESS, 1)), "waits for 1 device at work"),
        (_wave(_facts(_S.QUEUED, 2)), "waits for 2 devices told but not started"),
        (
            _wave(_facts(_S.IN_PROGRESS, 1), _facts(_S.QUEUED, 2), [AssignmentFacts()]),
            "waits for 4 devices: 1 at work, 2 told but not started, 1 not told yet",
        ),
        (_wave(_facts(_S.IN_PROGRESS, 1, reason="inconclusive: 3")), "waits for 1 device undecided"),
        (_wave(complete=False), "waits for its devices to be found"),
        (_wave(_DONE), "soaks until 00:01:00 UTC"),
    ],
)
def test_wave_that_waits_says_for_whom(wave: WaveState, words: str) -> None:
    assert words in judge(_state(wave), wave, at=START).sentence


def test_wave_that_waits_names_devices_it_is_given() -> None:
    wave = _wave(_facts(_S.QUEUED, 2))
    assert "(d-1, d-2)" in judge(_state(wave), wave, at=START, waits_for=("d-1", "d-2")).sentence


def test_sentence_of_a_soaking_wave_does_not_change_with_every_tick() -> None:
    wave = _wave(_DONE)
    said = {judge(_state(wave), wave, at=START + timedelta(seconds=n)).sentence for n in range(60)}
    assert len(said) == 1


def test_wave_that_passed_says_who_was_not_seen() -> None:
    wave = _wave(_DONE, _facts(_S.QUEUED, 2, unreachable=True))
    sentence = judge(_state(wave), wave, at=START + timedelta(minutes=2)).sentence
    assert "20 of 22 devices succeeded, 2 not seen" in sentence


@pytest.mark.parametrize(
    ("failed", "late", "devices", "verdict"),
    [
        (0, 0, 1, Verdict.PASS),
        (1, 0, 9, Verdict.FAIL),
        (0, 1, 9, Verdict.FAIL),
        (1, 0, 10, Verdict.PASS),
        (1, 1, 10, Verdict.INCONCLUSIVE),
        (2, 0, 51, Verdict.PASS),
    ],
)
def test_losses_of_a_wave_count_its_own_and_late_ones(failed: int, late: int, devices: int, verdict: Verdict) -> None:
    wave = _wave(_facts(_S.FAILED, failed), _facts(_S.SUCCEEDED, devices - failed), late_failures=late)
    assert wave_failures(wave).verdict is verdict


@given(exposed=st.lists(st.booleans(), max_size=60))
def test_guard_peak_never_falls_whatever_devices_do(exposed: list[bool]) -> None:
    peak, peaks = 0.0, []
    for told in range(1, len(exposed) + 1):
        peak = raised_peak(peak, Tally(exposed=told, failed=sum(exposed[:told])))
        peaks.append(peak)
    assert peaks == sorted(peaks)


@given(devices=st.integers(1, 400))
def test_guard_stops_at_the_number_it_announces_and_not_before(devices: int) -> None:
    needed = failures_that_stop(devices)
    if needed is None:
        assert not guard_stops(guard_evidence(exposed=devices, failed=devices))
        return
    assert guard_stops(guard_evidence(exposed=devices, failed=needed))
    assert not guard_stops(guard_evidence(exposed=devices, failed=needed - 1))


def test_guard_names_its_counts() -> None:
    assert failure_guard(0.0, Tally(exposed=7, failed=1)).sentence.startswith("1 of 7 devices failed")
