"""Every edge of the table, driven by events."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from agent.core.commands import CancelFetch, FetchRelease, RemoveRelease, RunTrial
from agent.core.events import FetchProblem, TrialDelayed
from agent.core.lifecycle import GIVE_UP_AFTER
from agent.core.state import Phase
from shared.ids import ReleaseId
from shared.wire import AssignmentStatus, PairedCounts
from tests.support.device_core import DIGITS, Bench, only, release

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.core.commands import Command

V2 = ReleaseId("v2")


def at_phase(phase: Phase, *, with_stable: bool = True) -> Bench:
    """Return a bench whose candidate v2 stands in `phase`; with v1 stable, or as first release."""
    bench = Bench()
    bench.start()
    if with_stable:
        bench.commit("v1")
    if phase is not Phase.STAGED:
        bench.pulse()
    else:
        bench.wait(1000)
    bench.desire(release("v2"))
    if phase is Phase.DOWNLOADING:
        return bench
    bench.fetched("v2")
    if phase is Phase.TRIAL:
        return bench
    bench.tried("v2")
    bench.applied()
    if phase is Phase.PROBATION and with_stable:
        bench.measured("v2")
        bench.applied()
    assert bench.model.phase is phase
    return bench


def crash(bench: Bench, times: int = 1) -> None:
    for _ in range(times):
        bench.boot = type(bench.boot)(bench.boot + "+")
        bench.applied()


BAD = PairedCounts(pairs=60, flips=55)

ENDS: list[tuple[Phase, str, Callable[[Bench], object], AssignmentStatus, str]] = [
    (
        Phase.DOWNLOADING,
        "corrupt",
        lambda b: [b.fetch_failed("v2", FetchProblem.CORRUPT, "digest_mismatch: x") for _ in range(GIVE_UP_AFTER)],
        AssignmentStatus.FAILED,
        "digest_mismatch",
    ),
    (
        Phase.DOWNLOADING,
        "refused",
        lambda b: [b.fetch_failed("v2", FetchProblem.REFUSED, "untrusted: x") for _ in range(GIVE_UP_AFTER)],
        AssignmentStatus.REJECTED,
        "untrusted",
    ),
    (Phase.DOWNLOADING, "halt", lambda b: b.pulse(r_v2="stop"), AssignmentStatus.CANCELED, "halted"),
    (Phase.DOWNLOADING, "halt back", lambda b: b.pulse(r_v2="revert"), AssignmentStatus.CANCELED, "halted"),
    (Phase.DOWNLOADING, "newer", lambda b: b.desire(release("v3")), AssignmentStatus.SUPERSEDED, "superseded"),
    (Phase.DOWNLOADING, "unlisted", lambda b: b.desire(), AssignmentStatus.REMOVED, "unlisted"),
    (Phase.TRIAL, "failed", lambda b: b.tried("v2", "golden_mismatch: x"), AssignmentStatus.FAILED, "golden_mismatch"),
    (Phase.TRIAL, "restarts", lambda b: [b.start() for _ in range(3)], AssignmentStatus.FAILED, "crash_loop"),
    (Phase.TRIAL, "halt", lambda b: b.pulse(r_v2="stop"), AssignmentStatus.CANCELED, "halted"),
    (Phase.TRIAL, "halt back", lambda b: b.pulse(r_v2="revert"), AssignmentStatus.CANCELED, "halted"),
    (Phase.TRIAL, "newer", lambda b: b.desire(release("v3")), AssignmentStatus.SUPERSEDED, "superseded"),
    (Phase.TRIAL, "unlisted", lambda b: b.desire(), AssignmentStatus.REMOVED, "unlisted"),
    (Phase.STAGED, "halt", lambda b: b.pulse(r_v2="stop"), AssignmentStatus.CANCELED, "halted"),
    (Phase.STAGED, "halt back", lambda b: b.pulse(r_v2="revert"), AssignmentStatus.CANCELED, "halted"),
    (Phase.STAGED, "newer", lambda b: b.desire(release("v3")), AssignmentStatus.SUPERSEDED, "superseded"),
    (Phase.STAGED, "unlisted", lambda b: b.desire(), AssignmentStatus.REMOVED, "unlisted"),
    (Phase.SHADOW, "flips", lambda b: b.measured("v2", BAD), AssignmentStatus.ROLLED_BACK, "flip_rate"),
    (
        Phase.SHADOW,
        "errors",
        lambda b: b.measured("v2", PairedCounts(pairs=1, candidate_errors=1)),
        AssignmentStatus.ROLLED_BACK,
        "candidate_errors",
    ),
    (Phase.SHADOW, "crashes", lambda b: crash(b, 3), AssignmentStatus.ROLLED_BACK, "crash_loop"),
    (Phase.SHADOW, "halt", lambda b: b.pulse(r_v2="stop"), AssignmentStatus.CANCELED, "halted"),
    (Phase.SHADOW, "halt back", lambda b: b.pulse(r_v2="revert"), AssignmentStatus.ROLLED_BACK, "halted"),
    (Phase.SHADOW, "newer", lambda b: b.desire(release("v3")), AssignmentStatus.SUPERSEDED, "superseded"),
    (Phase.SHADOW, "unlisted", lambda b: b.desire(), AssignmentStatus.REMOVED, "unlisted"),
    (Phase.PROBATION, "flips", lambda b: b.measured("v2", BAD), AssignmentStatus.ROLLED_BACK, "flip_rate"),
    (Phase.PROBATION, "crashes", lambda b: crash(b, 3), AssignmentStatus.ROLLED_BACK, "crash_loop"),
    (Phase.PROBATION, "halt back", lambda b: b.pulse(r_v2="revert"), AssignmentStatus.ROLLED_BACK, "halted"),
    (Phase.PROBATION, "newer", lambda b: b.desire(release("v3")), AssignmentStatus.SUPERSEDED, "superseded"),
    (Phase.PROBATION, "unlisted", lambda b: b.desire(), AssignmentStatus.REMOVED, "unlisted"),
]


@pytest.mark.parametrize(
    ("phase", "befall", "status", "word"),
    [(phase, befall, status, word) for phase, _, befall, status, word in ENDS],
    ids=[f"{phase}-{name}" for phase, name, *_ in ENDS],
)
def test_candidate_ended_tells_status_and_reason_and_leaves_stable(
    phase: Phase, befall: Callable[[Bench], object], status: AssignmentStatus, word: str
) -> None:
    bench = at_phase(phase)
    befall(bench)
    told = bench.assignment("v2")
    assert (told.status, told.reason.partition(":")[0]) == (status, word)
    assert told.activated == (phase in {Phase.SHADOW, Phase.PROBATION})
    if bench.state.models:
        assert bench.route.primary == "v1"
        assert "v2" not in {slot.release_id for slot in bench.state.plan.slots}


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.PROBATION])
def test_candidate_not_loaded_by_serving_rolled_back(phase: Phase) -> None:
    bench = at_phase(phase)
    bench.desire(release("v2", attempt=2))
    assert bench.assignment("v2").status is AssignmentStatus.SUPERSEDED
    bench.stage("v2")
    bench.applied(v2="no memory")
    told = bench.assignment("v2", attempt=2)
    assert (told.status, told.reason) == (AssignmentStatus.ROLLED_BACK, "load_failed: no memory")


def test_fetch_delayed_is_repeated_with_longer_waits_and_never_given_up() -> None:
    bench = at_phase(Phase.DOWNLOADING)
    for _ in range(20):
        bench.fetch_failed("v2", FetchProblem.DELAYED, "unreachable: x")
        assert not only(bench.wait(1), FetchRelease)
        assert only(bench.wait(301), FetchRelease)
    told = bench.assignment("v2")
    assert (told.status, told.reason) == (AssignmentStatus.IN_PROGRESS, "unreachable: x")


def test_fetch_of_full_disk_reported_and_repeated() -> None:
    bench = at_phase(Phase.DOWNLOADING)
    bench.fetch_failed("v2", FetchProblem.DELAYED, "storage_full: x")
    assert bench.assignment("v2").reason == "storage_full: x"
    assert only(bench.wait(6), FetchRelease)


def test_fetch_corrupt_once_is_repeated() -> None:
    bench = at_phase(Phase.DOWNLOADING)
    bench.fetch_failed("v2", FetchProblem.CORRUPT)
    assert bench.model.phase is Phase.DOWNLOADING
    assert only(bench.wait(6), FetchRelease)


def test_fetch_delays_do_not_count_as_corruption() -> None:
    bench = at_phase(Phase.DOWNLOADING)
    for _ in range(10):
        bench.fetch_failed("v2", FetchProblem.DELAYED)
    bench.fetch_failed("v2", FetchProblem.CORRUPT)
    assert bench.model.phase is Phase.DOWNLOADING


def test_corrupt_artifact_is_not_blacklisted_since_it_never_ran() -> None:
    bench = at_phase(Phase.DOWNLOADING)
    for _ in range(GIVE_UP_AFTER):
        bench.fetch_failed("v2", FetchProblem.CORRUPT)
    bench.desire(release("v2", attempt=2))
    assert bench.model.phase is Phase.DOWNLOADING


def test_fetch_superseded_is_cancelled() -> None:
    bench = at_phase(Phase.DOWNLOADING)
    assert only(bench.desire(release("v3")), CancelFetch) == (CancelFetch(model=DIGITS, release_id=V2),)


def test_trial_delayed_for_memory_is_repeated() -> None:
    bench = at_phase(Phase.TRIAL)
    bench.feed(TrialDelayed(at=bench.at, model=DIGITS, release_id=V2, reason="memory_short: x"))
    assert bench.assignment("v2").reason == "memory_short: x"
    assert only(bench.wait(6), RunTrial)


def test_stop_in_probation_lets_the_candidate_answer_and_commit() -> None:
    bench = at_phase(Phase.PROBATION)
    bench.pulse(r_v2="stop")
    assert bench.route.primary == "v2"
    bench.wait(11)
    bench.measured("v2")
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED


@pytest.mark.parametrize("phase", [Phase.STAGED, Phase.SHADOW])
def test_stable_that_cannot_be_loaded_leaves_the_candidate_to_answer(phase: Phase) -> None:
    bench = at_phase(phase)
    bench.applied(v1="rotten")
    bench.pulse()
    bench.wait(1)
    assert (bench.model.phase, bench.route.primary) == (Phase.PROBATION, "v2")


@pytest.mark.parametrize("phase", [Phase.DOWNLOADING, Phase.TRIAL, Phase.STAGED, Phase.SHADOW, Phase.PROBATION])
def test_late_results_of_another_release_change_nothing(phase: Phase) -> None:
    bench = at_phase(phase)
    before = bench.model
    bench.fetched("v9")
    bench.tried("v9", "x")
    bench.fetch_failed("v9", FetchProblem.CORRUPT)
    if phase is not Phase.DOWNLOADING:
        bench.fetch_failed("v2", FetchProblem.CORRUPT)
        bench.fetched("v2")
    assert bench.model == before


def test_results_for_a_model_that_is_gone_change_nothing() -> None:
    bench = at_phase(Phase.TRIAL)
    bench.desire()
    assert bench.tried("v2") == ()
    assert bench.state.models == ()


def test_policy_changed_under_way_keeps_the_evidence() -> None:
    bench = at_phase(Phase.SHADOW)
    bench.measured("v2", PairedCounts(pairs=20))
    stricter = release("v2").policy
    changed = release("v2", policy=type(stricter)(min_pairs=500))
    bench.desire(changed)
    phases = []
    for pairs in (20, 400, 600):
        bench.measured("v2", PairedCounts(pairs=pairs))
        phases.append(bench.model.phase)
    assert phases == [Phase.SHADOW, Phase.SHADOW, Phase.PROBATION]


def test_first_release_that_errs_serves_nothing_and_says_no_previous() -> None:
    bench = at_phase(Phase.PROBATION, with_stable=False)
    bench.measured("v2", PairedCounts(), requests=3, errors=1)
    told = bench.assignment("v2")
    assert (told.status, told.reason) == (AssignmentStatus.ROLLED_BACK, "no_previous: request_errors: 1 of 3")
    assert (bench.route.primary, bench.route.unavailable_reason) == (None, told.reason)
    assert bench.report.slots[0].unavailable_reason == told.reason


def test_removed_model_leaves_nothing_on_disk_or_in_the_plan() -> None:
    bench = at_phase(Phase.SHADOW)
    commands: tuple[Command, ...] = bench.desire()
    assert {c.release_id for c in only(commands, RemoveRelease)} == {"v1", "v2"}
    assert (bench.state.plan.slots, bench.state.plan.routes, bench.state.on_disk) == ((), (), ())


def test_deadline_without_evidence_is_inconclusive_and_stable_goes_on() -> None:
    bench = at_phase(Phase.SHADOW)
    bench.measured("v2", PairedCounts(pairs=3))
    bench.wait(901)
    told = bench.assignment("v2")
    assert (told.status, told.reason) == (AssignmentStatus.IN_PROGRESS, "inconclusive: 3 of 30 pairs after 900 s")
    bench.at += timedelta(days=1)
    bench.measured("v2", PairedCounts(pairs=4))
    assert (bench.model.phase, bench.route.primary) == (Phase.SHADOW, "v1")
    assert bench.assignment("v2").reason == told.reason


def test_evidence_after_the_deadline_still_decides() -> None:
    bench = at_phase(Phase.SHADOW)
    bench.wait(901)
    bench.pulse()
    bench.measured("v2")
    assert bench.model.phase is Phase.PROBATION
