from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from agent.core.commands import ApplyPlan, FetchRelease, RemoveRelease
from agent.core.events import PulseReceived
from agent.core.state import Phase
from shared.ids import RolloutId
from shared.wire import AssignmentStatus, HaltMode, Pulse
from tests.support.device_core import DIRECTOR, Bench, only, release


def committed() -> Bench:
    """Return a bench with v2 stable and v1 previous."""
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.commit("v2")
    return bench


def last_pulse(bench: Bench) -> Pulse:
    assert bench.state.pulse is not None
    return bench.state.pulse


def test_late_revert_swaps_a_committed_stable_back_at_once() -> None:
    bench = committed()
    (plan,) = only(bench.pulse(r_v2="revert"), ApplyPlan)
    assert plan.plan.routes[0].primary == "v1"
    told = bench.assignment("v2")
    assert (told.status, told.reason, told.activated) == (AssignmentStatus.ROLLED_BACK, "halted", True)


def test_halt_that_cannot_be_remembered_takes_back_and_lets_nothing_else_in() -> None:
    bench = committed()
    pulse = replace(last_pulse(bench), serial=bench.serial + 1, halted={RolloutId("r-v2"): HaltMode.REVERT})
    bench.at += timedelta(seconds=1000)
    bench.desire(release("v3"))
    bench.stage("v3")
    fresh = replace(pulse, issued_at=bench.at)
    (plan,) = only(bench.feed(PulseReceived(at=bench.at, pulse=fresh, key_id=DIRECTOR, halts_only=True)), ApplyPlan)
    assert [slot.release_id for slot in plan.plan.slots] == ["v1"]
    assert bench.model.phase is Phase.STAGED
    # The same Pulse once more, when there is room to remember it.
    bench.feed(PulseReceived(at=bench.at, pulse=fresh, key_id=DIRECTOR))
    assert bench.route.shadow == "v3"


def test_late_revert_holds_under_the_same_generation_and_removes_the_files() -> None:
    bench = committed()
    removed = only(bench.pulse(r_v2="revert"), RemoveRelease)
    assert [command.release_id for command in removed] == ["v2"]
    bench.pulse()
    bench.wait(3600)
    assert not only(bench.desire(release("v2"), generation=bench.generation), FetchRelease)
    assert bench.route.primary == "v1"


def test_late_revert_holds_under_a_higher_generation_with_the_same_assignment() -> None:
    bench = committed()
    bench.pulse(r_v2="revert")
    assert not only(bench.desire(release("v2")), FetchRelease)
    assert bench.assignment("v2").status is AssignmentStatus.ROLLED_BACK


def test_reverted_release_of_another_rollout_is_blacklisted_unless_overridden() -> None:
    bench = committed()
    bench.pulse(r_v2="revert")
    bench.desire(release("v2", rollout="r-again", attempt=2))
    told = bench.assignment("v2", attempt=2)
    assert (told.status, told.reason) == (AssignmentStatus.REJECTED, "blacklisted")
    again = release("v2", rollout="r-third")
    assert only(bench.desire(again, overrides=(again.artifact.sha256,)), FetchRelease)


def test_controller_that_names_the_previous_release_finds_it_stable_already() -> None:
    bench = committed()
    bench.pulse(r_v2="revert")
    # Whatever rollout the way back is counted under, even the halted one: v1 did not come from it.
    bench.desire(release("v1", rollout="r-v2", attempt=2))
    assert bench.assignment("v1", attempt=2).status is AssignmentStatus.SUCCEEDED
    bench.pulse(r_v2="revert")
    assert bench.route.primary == "v1"


def test_late_revert_without_previous_serves_nothing_and_says_so() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.pulse(r_v1="revert")
    assert (bench.route.primary, bench.route.unavailable_reason) == (None, "halted: no_previous")
    assert bench.assignment("v1").reason == "halted: no_previous"


def test_late_revert_does_not_go_back_to_a_release_that_is_reverted_too() -> None:
    bench = committed()
    bench.pulse(r_v1="revert", r_v2="revert")
    assert bench.route.primary is None


def test_late_stop_leaves_a_committed_stable() -> None:
    bench = committed()
    bench.pulse(r_v2="stop")
    assert bench.route.primary == "v2"
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED


def test_late_revert_of_stable_spares_the_candidate_of_another_rollout() -> None:
    bench = committed()
    bench.desire(release("v3"))
    bench.stage("v3")
    bench.applied()
    bench.pulse(r_v2="revert")
    assert (bench.route.primary, bench.route.shadow, bench.model.phase) == ("v1", "v3", Phase.SHADOW)
    assert bench.assignment("v2").status is AssignmentStatus.ROLLED_BACK


def test_release_wanted_again_by_a_newer_rollout_is_spared_by_the_old_ones_halt() -> None:
    bench = committed()
    bench.desire(release("v2", rollout="r-new"))
    bench.pulse(r_v2="revert")
    assert bench.route.primary == "v2"


@pytest.mark.parametrize("mode", ["stop", "revert"])
def test_rollout_halted_before_its_desired_came_never_begins(mode: str) -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.pulse(r_v2=mode)
    assert not only(bench.desire(release("v2")), FetchRelease)
    assert bench.assignment("v2").status is AssignmentStatus.CANCELED


def test_canceled_release_stays_on_disk_for_another_attempt() -> None:
    bench = committed()
    bench.wait(1000)
    bench.desire(release("v3"))
    bench.stage("v3")
    assert not only(bench.pulse(r_v3="stop"), RemoveRelease)
    bench.desire(release("v3", rollout="r-resumed"))
    assert "v3" in bench.state.on_disk


def test_halt_holds_when_a_later_pulse_does_not_name_it() -> None:
    bench = committed()
    bench.desire(release("v3"))
    bench.pulse(r_v3="stop")
    bench.pulse()
    bench.wait(10)
    assert (bench.model.phase, bench.assignment("v3").status) == (Phase.IDLE, AssignmentStatus.CANCELED)


def test_old_pulse_still_halts_though_it_authorises_nothing() -> None:
    bench = committed()
    bench.pulse(r_v3="stop")
    bench.wait(10_000)
    bench.desire(release("v3"))
    assert bench.assignment("v3").status is AssignmentStatus.CANCELED
