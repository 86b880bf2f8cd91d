from __future__ import annotations

import pytest

from agent.core.state import Phase
from agent.core.transitions import IMPOSSIBLE, TABLE, Signal, edge
from shared.wire import TERMINAL, AssignmentPhase, AssignmentStatus

PAIRS = [(phase, signal) for phase in Phase for signal in Signal]


@pytest.mark.parametrize(("phase", "signal"), PAIRS)
def test_transition_pair_has_an_edge_or_a_reason_why_not(phase: Phase, signal: Signal) -> None:
    assert (signal in TABLE[phase]) != (signal in IMPOSSIBLE[phase])


@pytest.mark.parametrize(("phase", "signal"), [(p, s) for p, s in PAIRS if s in TABLE[p]])
def test_transition_ends_assignment_iff_it_leads_to_idle(phase: Phase, signal: Signal) -> None:
    taken = edge(phase, signal)
    assert (taken.to is Phase.IDLE) == (taken.ends is not None)
    assert taken.ends is None or taken.ends in TERMINAL


def test_transition_commits_only_from_probation() -> None:
    commits = [(p, s) for p, s in PAIRS if s in TABLE[p] and TABLE[p][s].commits]
    assert commits == [(Phase.PROBATION, Signal.VERDICT_PASS)]


def test_transition_blacklists_all_that_ran_and_failed_and_nothing_else() -> None:
    for phase, signal in PAIRS:
        if signal not in TABLE[phase]:
            continue
        taken = TABLE[phase][signal]
        ran = phase in {Phase.TRIAL, Phase.SHADOW, Phase.PROBATION}
        failed = taken.ends in {AssignmentStatus.FAILED, AssignmentStatus.ROLLED_BACK}
        assert taken.blacklists == (ran and failed), (phase, signal)


def test_transition_phases_have_the_names_that_reports_use() -> None:
    assert {phase.value for phase in AssignmentPhase} == {phase.value for phase in Phase} - {"idle"}


def test_transition_of_impossible_pair_raises() -> None:
    with pytest.raises(KeyError):
        edge(Phase.IDLE, Signal.VERDICT_PASS)
