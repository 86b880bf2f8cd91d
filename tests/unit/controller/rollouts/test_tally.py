"""What an assignment counts as, row by row, and counters that add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rollouts.core.tally import (
    AssignmentFacts,
    Outcome,
    Tally,
    count,
    flip_ppm,
    may_become,
    outcome,
    recount,
)
from shared.wire import TERMINAL, AssignmentStatus, PairedCounts

_S = AssignmentStatus

facts_of_any_kind = st.builds(
    AssignmentFacts,
    status=st.sampled_from(AssignmentStatus),
    reason=st.sampled_from(["", "halted", "golden_mismatch: case 3", "no_fitting_artifact: arch", "inconclusive: 3"]),
    opened=st.booleans(),
    activated=st.booleans(),
    unreachable=st.booleans(),
    going_back=st.booleans(),
    flip_ppm=st.none() | st.integers(0, 1_000_000),
)


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (_S.QUEUED, "", Outcome.QUEUED),
        (_S.IN_PROGRESS, "", Outcome.IN_PROGRESS),
        (_S.IN_PROGRESS, "inconclusive: 4 pairs in 900 s", Outcome.UNDECIDED),
        (_S.SUCCEEDED, "", Outcome.SUCCEEDED),
        (_S.FAILED, "download_failed", Outcome.FAILED),
        (_S.TIMED_OUT, "timed_out", Outcome.FAILED),
        (_S.ROLLED_BACK, "too_many_flips: 40 of 60", Outcome.FAILED),
        (_S.ROLLED_BACK, "no_previous: candidate errors", Outcome.FAILED),
        (_S.ROLLED_BACK, "halted", Outcome.DISMISSED),
        (_S.ROLLED_BACK, "superseded: generation 9", Outcome.DISMISSED),
        (_S.REJECTED, "no_fitting_artifact: memory", Outcome.DISMISSED),
        (_S.REJECTED, "not_enrolled", Outcome.DISMISSED),
        (_S.REJECTED, "agent_too_old: it does not understand a canary share", Outcome.DISMISSED),
        (_S.REJECTED, "in_other_rollout: 0190", Outcome.DISMISSED),
        (_S.REJECTED, "blacklisted", Outcome.FAILED),
        (_S.REJECTED, "untrusted: counter 3 below 5", Outcome.FAILED),
        (_S.CANCELED, "halted", Outcome.DISMISSED),
        (_S.REMOVED, "removed", Outcome.DISMISSED),
        (_S.SUPERSEDED, "superseded", Outcome.DISMISSED),
    ],
)
def test_assignment_counts_as_the_table_says(status: AssignmentStatus, reason: str, expected: Outcome) -> None:
    assert outcome(AssignmentFacts(status=status, reason=reason, opened=True)) is expected


def test_queued_assignment_counts_by_whether_its_device_was_told_and_seen() -> None:
    assert outcome(AssignmentFacts()) is Outcome.WAITING
    assert outcome(AssignmentFacts(opened=True)) is Outcome.QUEUED
    assert outcome(AssignmentFacts(opened=True, unreachable=True)) is Outcome.UNREACHABLE


@pytest.mark.parametrize("before", sorted(TERMINAL))
@pytest.mark.parametrize("after", list(AssignmentStatus))
def test_terminal_status_is_sticky(before: AssignmentStatus, after: AssignmentStatus) -> None:
    assert may_become(before, after) == (after is before)


def test_started_assignment_is_never_queued_again() -> None:
    assert not may_become(_S.IN_PROGRESS, _S.QUEUED)
    assert may_become(_S.QUEUED, _S.SUCCEEDED)


@given(st.lists(facts_of_any_kind, max_size=20))
def test_tally_outcomes_add_up_to_the_members(every: list[AssignmentFacts]) -> None:
    tally = recount(every)
    assert tally.members == len(every) == sum(getattr(tally, kind.value) for kind in Outcome)


@given(before=facts_of_any_kind, after=facts_of_any_kind, others=st.lists(facts_of_any_kind, max_size=5))
def test_tally_moved_by_a_change_equals_a_recount(
    before: AssignmentFacts, after: AssignmentFacts, others: list[AssignmentFacts]
) -> None:
    moved = recount([before, *others]).plus(count(after)).plus(count(before), sign=-1)
    assert moved == recount([after, *others])


def test_tally_of_nothing_is_zero() -> None:
    assert recount([]) == Tally()


@pytest.mark.parametrize(
    ("paired", "expected"),
    [
        (None, None),
        (PairedCounts(pairs=29, flips=29), None),
        (PairedCounts(pairs=30, flips=3), 100_000),
        (PairedCounts(pairs=300, flips=1), 3_333),
    ],
)
def test_flip_rate_needs_enough_pairs(paired: PairedCounts | None, expected: int | None) -> None:
    assert flip_ppm(paired, min_pairs=30) == expected
