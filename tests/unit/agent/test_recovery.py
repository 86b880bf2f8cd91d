"""Starts of the control process: what the journal says against what the disk holds."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.core.commands import (
    ApplyPlan,
    FetchRelease,
    PublishReport,
    RemoveRelease,
    RequestDocuments,
    RunTrial,
    WriteBootFile,
)
from agent.core.events import Started
from agent.core.plan import SlotSpec
from agent.core.recovery import slot_from_boot
from agent.core.state import Phase, Slot
from shared.ids import DeviceId, ReleaseId, Sha256
from shared.wire import AssignmentStatus
from tests.support.device_core import DIGITS, NOON, SETTINGS, Bench, only, release
from tests.support.manifests import manifest

V1, V2 = ReleaseId("v1"), ReleaseId("v2")
ROT = "digest_mismatch: model.tflite"


def with_candidate(phase: Phase) -> Bench:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.desire(release("v2"))
    if phase is not Phase.DOWNLOADING:
        bench.fetched("v2")
    if phase in {Phase.SHADOW, Phase.PROBATION}:
        bench.tried("v2")
        bench.applied()
    if phase is Phase.PROBATION:
        bench.measured("v2")
        bench.applied()
    assert bench.model.phase is phase
    return bench


def test_start_sends_plan_and_report_again_and_asks_for_documents() -> None:
    bench = with_candidate(Phase.SHADOW)
    commands = bench.start(boot_serial=bench.state.plan.serial)
    assert {ApplyPlan, PublishReport, RequestDocuments} <= {type(c) for c in commands}
    assert only(commands, ApplyPlan)[0].plan == bench.state.plan


def test_start_leaves_a_boot_file_of_the_same_plan_alone_for_its_tries() -> None:
    bench = with_candidate(Phase.SHADOW)
    assert not only(bench.start(boot_serial=bench.state.plan.serial), WriteBootFile)
    assert only(bench.start(boot_serial=bench.state.plan.serial - 1), WriteBootFile)


def test_start_resumes_a_download_at_once() -> None:
    bench = with_candidate(Phase.DOWNLOADING)
    assert only(bench.start(), FetchRelease)


def test_start_counts_an_interrupted_trial_and_repeats_it() -> None:
    bench = with_candidate(Phase.TRIAL)
    bench.start()
    assert only(bench.wait(6), RunTrial)
    assert bench.model.attempt is not None
    assert bench.model.attempt.interruptions == 1


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.PROBATION])
def test_start_goes_on_watching_a_candidate_that_serving_still_holds(phase: Phase) -> None:
    bench = with_candidate(phase)
    before = bench.model
    bench.start()
    assert bench.model == before


@pytest.mark.parametrize("phase", [Phase.TRIAL, Phase.SHADOW, Phase.PROBATION])
def test_start_fetches_a_damaged_candidate_again(phase: Phase) -> None:
    bench = with_candidate(phase)
    commands = bench.start(damage={V2: ROT})
    assert [c.release.release_id for c in only(commands, FetchRelease)] == ["v2"]
    assert (bench.model.phase, bench.assignment("v2").reason) == (Phase.DOWNLOADING, ROT)
    assert bench.route.primary == "v1"


def test_start_with_rotten_stable_serves_previous_and_fetches_it_again() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.commit("v2")
    commands = bench.start(damage={V2: ROT})
    assert bench.route.primary == "v1"
    assert bench.report.slots[0].unavailable_reason == f"damaged: {ROT}; v1 answers until it is mended"
    assert [c.release.release_id for c in only(commands, FetchRelease)] == ["v2"]
    bench.fetched("v2")
    assert bench.route.primary == "v2"
    assert bench.report.slots[0].unavailable_reason == ""
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED


def test_start_with_rotten_stable_and_no_previous_serves_nothing_with_the_reason() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.start(damage={V1: ROT})
    assert (bench.route.primary, bench.route.unavailable_reason) == (None, f"damaged: {ROT}")
    assert bench.report.slots[0].unavailable_reason == f"damaged: {ROT}"
    assert "v1" not in {slot.release_id for slot in bench.state.plan.slots}


def test_mending_needs_no_pulse_and_is_repeated_until_it_succeeds() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.wait(5000)
    bench.start(damage={V1: ROT})
    fetches = sum(len(only(bench.wait(100), FetchRelease)) for _ in range(10))
    assert 2 <= fetches <= 4
    bench.fetched("v1")
    assert bench.route.primary == "v1"


def test_start_that_finds_stable_whole_again_serves_it() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.start(damage={V1: ROT})
    bench.start()
    assert bench.route.primary == "v1"


def test_start_with_damaged_previous_has_nothing_to_go_back_to() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.commit("v2")
    bench.start(damage={V1: ROT})
    assert bench.route.primary == "v2"
    bench.pulse(r_v2="revert")
    assert bench.route.unavailable_reason == "halted: no_previous"


def test_start_after_new_enrolment_forgets_documents_and_goes_on_serving() -> None:
    bench = with_candidate(Phase.SHADOW)
    settings = replace(SETTINGS, identity=replace(SETTINGS.identity, device_id=DeviceId("dev-9")))
    bench.feed(Started(at=bench.at, settings=settings, on_disk=bench.state.on_disk))
    assert (bench.state.desired, bench.state.pulse, bench.state.outcomes) == (None, None, ())
    assert (bench.route.primary, bench.route.shadow) == ("v1", None)
    assert bench.wait(10) is not None
    assert "v1" in bench.state.on_disk


# --- journal lost --------------------------------------------------------------------------------


def recovered(name: str = "v1") -> Slot:
    """Return the slot that boot.json tells of."""
    wanted = release(name)
    spec = SlotSpec(
        model=DIGITS,
        release_id=ReleaseId(name),
        version_number=1,
        folder=f"/state/releases/{name}",
        artifact_sha256=wanted.artifact.sha256,
        manifest_sha256=wanted.manifest.sha256,
    )
    slot = slot_from_boot(spec, manifest(release(name)), manifest_length_bytes=10)
    assert slot is not None
    return slot


def after_loss() -> Bench:
    bench = Bench()
    bench.start(recovered=(recovered(),), boot_serial=41, journal_problem="journal_rebuilt: truncated")
    return bench


def test_lost_journal_goes_on_serving_what_boot_file_and_disk_agree_on() -> None:
    bench = after_loss()
    assert bench.route.primary == "v1"
    assert bench.state.plan.serial == 42


def test_lost_journal_adopts_the_release_that_desired_names_and_says_why() -> None:
    bench = after_loss()
    assert not only(bench.desire(release("v1")), FetchRelease)
    told = bench.assignment("v1")
    assert (told.status, told.reason) == (AssignmentStatus.SUCCEEDED, "journal_rebuilt: truncated")
    bench.pulse(r_v1="revert")
    assert bench.assignment("v1").status is AssignmentStatus.ROLLED_BACK


def test_lost_journal_does_not_save_a_release_from_the_halt_of_its_rollout() -> None:
    bench = after_loss()
    bench.pulse(r_v1="revert")
    bench.desire(release("v1"))
    bench.wait(1)
    assert (bench.route.primary, bench.assignment("v1").reason) == (None, "halted: no_previous")


def test_lost_journal_compares_another_desired_release_with_what_it_found() -> None:
    bench = after_loss()
    bench.pulse()
    bench.desire(release("v2"))
    bench.stage("v2")
    assert (bench.route.primary, bench.route.shadow) == ("v1", "v2")


def test_lost_journal_removes_nothing_before_a_desired_came() -> None:
    bench = Bench(state=replace(Bench().state, on_disk=(V1, V2)))
    bench.start(journal_problem="journal_rebuilt: x")
    assert not only(bench.wait(100), RemoveRelease)
    assert [c.release_id for c in only(bench.desire(release("v1")), RemoveRelease)] == ["v2"]


def test_lost_journal_and_boot_file_leave_serving_alone_until_a_desired_comes() -> None:
    bench = Bench()
    commands = bench.start(journal_problem="journal_rebuilt: x")
    assert not only(commands, ApplyPlan)
    assert not only(bench.wait(100), ApplyPlan)
    assert only(bench.desire(), ApplyPlan) == ()


def test_recovered_slot_is_mended_before_any_desired_comes() -> None:
    bench = after_loss()
    bench.applied(v1="digest_mismatch")
    assert only(bench.wait(31), FetchRelease)
    assert bench.at > NOON


def test_boot_slot_that_its_manifest_does_not_know_is_not_recovered() -> None:
    spec = SlotSpec(
        model=DIGITS,
        release_id=V1,
        version_number=1,
        folder="/state/releases/v1",
        artifact_sha256=Sha256("a" * 64),
        manifest_sha256=Sha256("b" * 64),
    )
    assert slot_from_boot(spec, manifest(release("v1")), manifest_length_bytes=10) is None
