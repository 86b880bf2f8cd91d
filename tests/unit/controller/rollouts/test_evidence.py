"""What a device's report does to its assignment, and what the core is told of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rollouts.evidence import change_of, heard
from controller.rollouts.spec import TRANSFER_ALLOWANCE_S
from shared.ids import ModelName, RolloutId
from shared.wire import TERMINAL, AssignmentPhase, AssignmentStatus, PairedCounts, SlotReport
from tests.support.assignments import MODEL, NEW, NOW, OLD, SPEC, assignment, report, share

_S = AssignmentStatus
_LATER = NOW + timedelta(seconds=30)
_LIMIT = timedelta(seconds=100 + 10 + TRANSFER_ALLOWANCE_S)


def test_report_of_progress_moves_the_assignment_and_sets_its_timer() -> None:
    moved = heard(assignment(), report(share(_S.IN_PROGRESS, phase=AssignmentPhase.TRIAL)), SPEC, _LATER)
    assert (moved.status, moved.phase, moved.due_at) == (_S.IN_PROGRESS, AssignmentPhase.TRIAL, _LATER + _LIMIT)
    assert moved.changed_at == _LATER


def test_report_repeated_does_not_put_the_timer_off() -> None:
    said = report(share(_S.IN_PROGRESS, phase=AssignmentPhase.TRIAL))
    once = heard(assignment(), said, SPEC, NOW)
    assert heard(once, said, SPEC, _LATER) == once


def test_report_of_the_next_phase_starts_the_timer_anew() -> None:
    before = assignment(status=_S.IN_PROGRESS, phase=AssignmentPhase.TRIAL, due_at=NOW + _LIMIT)
    moved = heard(before, report(share(_S.IN_PROGRESS, phase=AssignmentPhase.SHADOW)), SPEC, _LATER)
    assert moved.due_at == _LATER + _LIMIT


def test_report_that_could_not_decide_stops_the_timer() -> None:
    before = assignment(status=_S.IN_PROGRESS, due_at=NOW + _LIMIT)
    said = share(_S.IN_PROGRESS, phase=AssignmentPhase.SHADOW, reason="inconclusive: 3 pairs in 900 s")
    assert heard(before, report(said), SPEC, _LATER).due_at is None


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_report_of_an_end_stops_the_timer(status: AssignmentStatus) -> None:
    before = assignment(status=_S.IN_PROGRESS, due_at=NOW + _LIMIT)
    moved = heard(before, report(share(status)), SPEC, _LATER)
    assert (moved.status, moved.due_at) == (status, None)


def test_report_of_an_unseen_device_ends_its_excuse() -> None:
    assert not heard(assignment(unreachable=True), report(share(_S.IN_PROGRESS)), SPEC, NOW).unreachable


def test_report_without_pairs_keeps_those_that_were_counted() -> None:
    paired = PairedCounts(pairs=40, flips=2)
    before = assignment(status=_S.IN_PROGRESS, paired=paired)
    assert heard(before, report(share(_S.SUCCEEDED)), SPEC, NOW).paired == paired


def test_report_never_takes_an_activation_back() -> None:
    before = assignment(status=_S.IN_PROGRESS, activated=True)
    assert heard(before, report(share(_S.ROLLED_BACK, activated=False)), SPEC, NOW).activated


_SUCCESS = share(_S.SUCCEEDED, activated=True)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(share(_S.SUCCEEDED, rollout_id=RolloutId("rollout-1")), id="another rollout"),
        pytest.param(share(_S.SUCCEEDED, attempt=2), id="another attempt"),
        pytest.param(share(_S.QUEUED, reason="later"), id="nothing begun"),
    ],
)
def test_report_of_something_else_moves_nothing(said: object) -> None:
    assert heard(assignment(), report(said), SPEC, _LATER) == assignment()  # type: ignore[arg-type] # share() made it


def test_attack_success_of_a_device_that_was_never_told_is_not_believed() -> None:
    waiting = assignment(opened_at=None)
    assert heard(waiting, report(_SUCCESS), SPEC, NOW) == waiting


@pytest.mark.parametrize("ended", sorted(TERMINAL))
@pytest.mark.parametrize("said", list(AssignmentStatus))
def test_attack_report_cannot_rewrite_how_an_assignment_ended(ended: AssignmentStatus, said: AssignmentStatus) -> None:
    before = assignment(status=ended, reason="as it was")
    assert heard(before, report(share(said, reason="another story")), SPEC, _LATER) == before


def test_started_assignment_that_claims_to_be_queued_stays_started() -> None:
    before = assignment(status=_S.IN_PROGRESS)
    assert heard(before, report(share(_S.QUEUED)), SPEC, _LATER) == before


def _slots(stable: object, candidate: object = None) -> tuple[SlotReport, ...]:
    return (SlotReport(model=MODEL, stable=stable, candidate=candidate),)  # type: ignore[arg-type] # release ids or None


def test_device_that_holds_the_old_release_only_is_back() -> None:
    back = heard(assignment(status=_S.IN_PROGRESS, going_back=True), report(slots=_slots(OLD)), SPEC, NOW)
    assert (back.going_back, back.status, back.reason) == (False, _S.CANCELED, "halted")


def test_device_that_is_back_after_a_success_keeps_its_success() -> None:
    back = heard(assignment(status=_S.SUCCEEDED, going_back=True), report(slots=_slots(OLD)), SPEC, NOW)
    assert (back.going_back, back.status) == (False, _S.SUCCEEDED)


@pytest.mark.parametrize("slots", [_slots(NEW), _slots(OLD, NEW)])
def test_device_that_still_holds_the_release_is_not_back(slots: tuple[SlotReport, ...]) -> None:
    assert heard(assignment(status=_S.SUCCEEDED, going_back=True), report(slots=slots), SPEC, NOW).going_back


def test_device_that_still_works_on_the_release_is_not_back() -> None:
    at_work = report(share(_S.IN_PROGRESS, phase=AssignmentPhase.DOWNLOADING), slots=_slots(OLD))
    assert heard(assignment(going_back=True), at_work, SPEC, NOW).going_back


def test_device_that_holds_the_release_as_a_variant_beside_is_back() -> None:
    slots = (*_slots(OLD), SlotReport(model=MODEL, variant="blue", stable=NEW))
    assert not heard(assignment(going_back=True), report(slots=slots), SPEC, NOW).going_back


def test_report_of_a_variant_moves_no_assignment() -> None:
    started = assignment(status=_S.IN_PROGRESS)
    said = share(_S.FAILED, rollout_id=RolloutId("change-of-traffic"), variant="blue")
    assert heard(started, report(said), SPEC, NOW) == started


def test_device_that_holds_the_release_as_another_model_is_back() -> None:
    other = (SlotReport(model=ModelName("letters"), stable=NEW),)
    assert not heard(assignment(going_back=True), report(slots=other), SPEC, NOW).going_back


def test_core_hears_nothing_of_what_it_does_not_see() -> None:
    before = assignment(status=_S.IN_PROGRESS, phase=AssignmentPhase.TRIAL)
    after = replace(before, phase=AssignmentPhase.SHADOW, changed_at=_LATER, due_at=_LATER)
    assert change_of(before, after, SPEC) is None


def test_core_hears_of_a_new_assignment_with_nothing_before_it() -> None:
    change = change_of(None, assignment(opened_at=None, wave=3), SPEC)
    assert change is not None
    assert (change.wave, change.before, change.after.opened) == (3, None, False)


def test_core_hears_of_pairs_once_they_are_evidence() -> None:
    few, enough = PairedCounts(pairs=29, flips=3), PairedCounts(pairs=30, flips=3)
    assert change_of(assignment(), assignment(paired=few), SPEC) is None
    change = change_of(assignment(paired=few), assignment(paired=enough), SPEC)
    assert change is not None
    assert change.after.flip_ppm == 100_000


@given(
    statuses=st.lists(st.sampled_from(AssignmentStatus), max_size=12),
    activations=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_assignment_after_any_reports_has_the_first_end_and_every_activation_before_it(
    statuses: list[AssignmentStatus], activations: list[bool]
) -> None:
    now = assignment()
    for status, activated in zip(statuses, activations, strict=False):
        now = heard(now, report(share(status, activated=activated)), SPEC, NOW)
    ends = [status for status in statuses if status in TERMINAL]
    counted = statuses.index(ends[0]) + 1 if ends else len(statuses)
    believed = [a for a, s in zip(activations[:counted], statuses[:counted], strict=True) if s is not _S.QUEUED]
    assert now.activated == any(believed)
    assert (now.status if now.status in TERMINAL else None) == (ends[0] if ends else None)
