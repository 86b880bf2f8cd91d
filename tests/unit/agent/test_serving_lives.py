"""Serving as the core sees it: plans, boot file, crashes, counters over several lives."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agent.core import events as ev
from agent.core.commands import ApplyPlan, RequestStats, WriteBootFile
from agent.core.plan import Applied, BootFile, Stats
from agent.core.state import Phase
from shared.ids import BootId
from shared.wire import AssignmentStatus, PairedCounts
from tests.support.device_core import Bench, only, release


def shadowing() -> Bench:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.desire(release("v2"))
    bench.stage("v2")
    bench.applied()
    return bench


def boot_of(bench: Bench) -> BootFile:
    """Return the newest boot file that was to be written."""
    return [command for command in bench.log if isinstance(command, WriteBootFile)][-1].boot


def restart(bench: Bench, name: str) -> None:
    bench.boot = BootId(name)
    bench.feed(ev.ServingRestarted(at=bench.at, boot_id=bench.boot))


def test_plan_unanswered_is_sent_again_and_an_answered_one_is_not() -> None:
    bench = Bench()
    bench.start()
    bench.pulse()
    bench.desire(release("v1"))
    assert not only(bench.wait(5), ApplyPlan)
    assert only(bench.wait(6), ApplyPlan)
    bench.applied()
    assert not only(bench.wait(60), ApplyPlan)


def test_plan_serials_only_grow_and_unchanged_content_makes_no_new_one() -> None:
    bench = shadowing()
    serials = [command.plan.serial for command in bench.log if isinstance(command, ApplyPlan)]
    assert serials == sorted(set(serials))
    bench.measured("v2", PairedCounts(pairs=1))
    bench.wait(1)
    assert bench.state.plan.serial == serials[-1]


def test_answer_to_an_older_plan_is_no_news() -> None:
    bench = shadowing()
    before = bench.state
    bench.feed(ev.PlanApplied(at=bench.at, applied=Applied(serial=before.plan.serial - 1, boot_id=bench.boot)))
    assert bench.state == before


def test_boot_file_falls_back_to_stable_alone() -> None:
    boot = boot_of(shadowing())
    assert {slot.release_id for slot in boot.plan.slots} == {"v1", "v2"}
    assert {slot.release_id for slot in boot.fallback.slots} == {"v1"}
    assert [(route.primary, route.shadow, route.candidate) for route in boot.fallback.routes] == [("v1", None, None)]
    assert boot.tries_left == 3


def test_boot_file_of_a_first_release_falls_back_to_nothing_with_a_reason() -> None:
    bench = Bench()
    bench.start()
    bench.pulse()
    bench.desire(release("v1"))
    bench.stage("v1")
    fallback = boot_of(bench).fallback
    assert fallback.slots == ()
    assert (fallback.routes[0].primary, bool(fallback.routes[0].unavailable_reason)) == (None, True)


def test_boot_file_is_written_before_the_plan_is_sent() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    kinds = [type(command) for command in bench.log if isinstance(command, WriteBootFile | ApplyPlan)]
    assert kinds[::2] == [WriteBootFile] * (len(kinds) // 2)


def test_tries_left_shrink_with_the_lives_that_ended_and_the_one_that_holds_it() -> None:
    bench = shadowing()
    restart(bench, "serving-2")
    bench.applied()
    bench.measured("v2")
    assert bench.model.phase is Phase.PROBATION
    assert boot_of(bench).tries_left == 1


def test_serving_restarted_is_told_the_plan_again() -> None:
    bench = shadowing()
    bench.boot = BootId("serving-2")
    (command,) = only(bench.feed(ev.ServingRestarted(at=bench.at, boot_id=bench.boot)), ApplyPlan)
    assert command.plan == bench.state.plan


def test_serving_restarted_without_candidate_counts_against_nobody() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    for life in range(10):
        restart(bench, f"life-{life}")
    assert bench.route.primary == "v1"


def test_unknown_boot_in_counters_is_a_restart() -> None:
    bench = shadowing()
    bench.boot = BootId("serving-2")
    assert only(bench.measured("v2", PairedCounts()), ApplyPlan)
    assert bench.model.attempt is not None
    assert bench.model.attempt.interruptions == 1


def test_two_crashes_are_forgiven_and_the_third_is_not() -> None:
    bench = shadowing()
    restart(bench, "serving-2")
    restart(bench, "serving-3")
    assert bench.assignment("v2").status is AssignmentStatus.IN_PROGRESS
    restart(bench, "serving-4")
    assert bench.assignment("v2").reason == "crash_loop: 3 interrupted tries"
    assert bench.route.primary == "v1"


def test_first_release_in_a_crash_loop_serves_nothing() -> None:
    bench = Bench()
    bench.start()
    bench.pulse()
    bench.desire(release("v1"))
    bench.stage("v1")
    bench.applied()
    for life in range(3):
        restart(bench, f"life-{life}")
    assert bench.route.unavailable_reason == "no_previous: crash_loop: 3 interrupted tries"


def test_evidence_adds_up_over_lives_of_serving() -> None:
    bench = shadowing()
    bench.measured("v2", PairedCounts(pairs=20, flips=1))
    restart(bench, "serving-2")
    bench.applied()
    bench.measured("v2", PairedCounts(pairs=25, flips=2))
    bench.wait(11)
    bench.measured("v2", PairedCounts(pairs=26, flips=2))
    assert bench.assignment("v2").paired == PairedCounts(pairs=46, flips=3)


def test_evidence_of_an_earlier_attempt_in_the_same_life_does_not_count() -> None:
    bench = shadowing()
    bench.measured("v2", PairedCounts(pairs=50, candidate_errors=1))
    assert bench.assignment("v2").status is AssignmentStatus.ROLLED_BACK
    again = release("v2", attempt=2)
    bench.desire(again, overrides=(again.artifact.sha256,))
    bench.stage("v2")
    bench.applied()
    bench.measured("v2", PairedCounts(pairs=55, candidate_errors=1))
    assert bench.model.phase is Phase.SHADOW
    bench.measured("v2", PairedCounts(pairs=56, candidate_errors=2))
    assert bench.assignment("v2", attempt=2).reason == "candidate_errors: 1"


def test_evidence_is_not_reset_when_the_candidate_begins_to_answer() -> None:
    bench = shadowing()
    bench.measured("v2", PairedCounts(pairs=120))
    bench.applied()
    # 118 flips in 240 pairs are far beyond the margin, though the first 120 pairs had none.
    bench.measured("v2", PairedCounts(pairs=240, flips=118))
    assert bench.assignment("v2").status is AssignmentStatus.ROLLED_BACK


def test_probation_passes_only_on_counters_of_a_life_that_holds_the_candidate() -> None:
    bench = shadowing()
    bench.measured("v2")
    bench.wait(100)
    bench.measured("v2")
    assert bench.model.phase is Phase.PROBATION
    bench.applied()
    bench.wait(11)
    assert bench.model.stable is not None
    assert bench.model.stable.release_id == "v1"
    bench.measured("v2")
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)], ids=["forward", "back"])
def test_clock_that_jumps_neither_ends_probation_early_nor_keeps_it_for_ever(jump: timedelta) -> None:
    bench = shadowing()
    bench.measured("v2")
    bench.applied()
    bench.at += jump
    bench.feed(ev.StatsMeasured(at=bench.at, stats=Stats(boot_id=bench.boot)))
    assert bench.model.phase is Phase.PROBATION
    bench.wait(11)
    bench.measured("v2")
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED


def test_probation_begins_anew_in_a_new_life_of_serving() -> None:
    bench = shadowing()
    bench.measured("v2")
    bench.applied()
    bench.wait(8)
    restart(bench, "serving-2")
    bench.applied()
    bench.wait(8)
    bench.measured("v2", PairedCounts())
    assert bench.model.phase is Phase.PROBATION


def test_counters_are_read_often_only_while_a_candidate_is_watched() -> None:
    bench = shadowing()
    watched = sum(len(only(bench.wait(1), RequestStats)) for _ in range(20))
    bench.desire(release("v1"))
    idle = sum(len(only(bench.wait(1), RequestStats)) for _ in range(60))
    assert watched >= 19
    assert idle <= 3


def test_stable_not_loaded_serves_previous_and_looks_again_later() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.commit("v2")
    bench.boot = BootId("serving-2")
    bench.applied(v2="digest_mismatch: x")
    assert bench.route.primary == "v1"
    bench.applied(v1="no memory")
    assert bench.route.unavailable_reason == "damaged: digest_mismatch: x"


@pytest.mark.parametrize("errors", [0, 1])
def test_error_that_both_releases_make_is_the_requests_fault(errors: int) -> None:
    bench = shadowing()
    bench.measured("v2")
    bench.applied()
    bench.wait(11)
    bench.measured("v2", requests=100, errors=errors)
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED
