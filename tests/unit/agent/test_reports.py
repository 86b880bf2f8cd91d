"""What the device tells, until when, and which files it keeps."""

from __future__ import annotations

import msgspec

from agent.core import events as ev
from agent.core.commands import PublishReport, RemoveRelease
from agent.core.plan import Applied, SlotState
from agent.core.reporting import heartbeat_of, report_of, with_trouble
from agent.core.state import AgentState
from shared.probe import ExecutionMode, ModelProbe, ThreadTiming
from shared.wire import NO_BODY, AssignmentStatus, PairedCounts
from tests.support.device_core import Bench, only, release


def acked(bench: Bench) -> None:
    bench.feed(ev.ReportAcked(at=bench.at, revision=bench.state.report_revision))


def told(bench: Bench) -> list[tuple[str, AssignmentStatus]]:
    return [(a.release_id, a.status) for a in bench.report.assignments]


def test_report_before_any_desired_says_so() -> None:
    bench = Bench()
    bench.start()
    assert (bench.report.generation, bench.report.body_digest, bench.report.stale) == (0, NO_BODY, True)
    assert heartbeat_of(bench.state).generation == 0


def test_report_is_published_only_when_it_changed() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    assert not only(bench.wait(1), PublishReport)
    revision = bench.state.report_revision
    assert only(bench.desire(release("v2")), PublishReport)[0].revision == revision + 1


def test_terminal_assignment_is_told_until_acked() -> None:
    bench = Bench()
    bench.start()
    bench.desire(release("v1"))
    bench.desire(release("v2"))
    assert ("v1", AssignmentStatus.SUPERSEDED) in told(bench)
    acked(bench)
    bench.wait(1)
    assert ("v1", AssignmentStatus.SUPERSEDED) not in told(bench)


def test_ack_of_an_older_report_forgets_nothing_that_it_did_not_carry() -> None:
    bench = Bench()
    bench.start()
    bench.desire(release("v1"))
    revision = bench.state.report_revision
    bench.desire(release("v2"))
    bench.feed(ev.ReportAcked(at=bench.at, revision=revision))
    bench.wait(1)
    assert ("v1", AssignmentStatus.SUPERSEDED) in told(bench)


def test_end_of_the_wanted_assignment_stays_listed_after_its_ack() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    acked(bench)
    bench.wait(1)
    assert told(bench) == [("v1", AssignmentStatus.SUCCEEDED)]


def test_unacked_ends_survive_a_restart() -> None:
    bench = Bench()
    bench.start()
    bench.desire(release("v1"))
    bench.desire(release("v2"))
    bench.start()
    assert ("v1", AssignmentStatus.SUPERSEDED) in told(bench)


def test_assignment_that_failed_and_is_named_again_is_not_tried_again() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.desire(release("v2"))
    bench.fetched("v2")
    bench.tried("v2", "golden_mismatch")
    acked(bench)
    bench.desire(release("v1"))
    acked(bench)
    bench.desire(release("v2"))
    assert bench.assignment("v2").status is AssignmentStatus.FAILED


def test_assignment_that_succeeded_and_was_left_is_installed_again_when_named_again() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.commit("v2")
    bench.commit("v1")
    assert bench.route.primary == "v1"
    assert bench.assignment("v1").status is AssignmentStatus.SUCCEEDED


def test_ends_remembered_are_bounded() -> None:
    bench = Bench()
    bench.start()
    for number in range(60):
        bench.desire(release(f"v{number}"))
        acked(bench)
    assert len(bench.state.outcomes) < 40


def test_running_comparison_is_told_every_ten_seconds_not_with_every_reading() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.desire(release("v2"))
    bench.stage("v2")
    bench.applied()
    reports = 0
    for pairs in range(20):
        bench.wait(1)
        reports += len(only(bench.measured("v2", PairedCounts(pairs=pairs)), PublishReport))
    assert reports <= 3
    assert bench.assignment("v2").paired == PairedCounts(pairs=10)


def test_trouble_of_the_journal_is_told_with_what_waits_for_it() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    assert with_trouble(bench.report, "storage_full: x").desired_refused == "storage_full: x"
    bench.desire(release("v2"))
    running = with_trouble(bench.report, "storage_full: x").assignments[-1]
    assert (running.status, running.reason) == (AssignmentStatus.IN_PROGRESS, "storage_full: x")


def test_report_follows_from_the_state_alone() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.desire(release("v2"))
    copied = msgspec.json.decode(msgspec.json.encode(bench.state), type=AgentState)
    assert copied == bench.state
    assert report_of(copied) == bench.report


def test_ends_that_nobody_acknowledges_are_bounded_too() -> None:
    bench = Bench()
    bench.start()
    for number in range(300):
        bench.desire(release(f"v{number}"))
    assert len(bench.state.outcomes) < 150


# --- retention -----------------------------------------------------------------------------------


def test_files_of_stable_and_previous_are_kept_and_older_ones_removed_at_commit() -> None:
    bench = Bench()
    bench.start()
    for name in ("v1", "v2", "v3"):
        bench.commit(name)
    removed = [command.release_id for command in bench.log if isinstance(command, RemoveRelease)]
    assert (removed, set(bench.state.on_disk)) == (["v1"], {"v2", "v3"})


def test_files_of_a_failed_candidate_are_removed() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    bench.desire(release("v2"))
    bench.fetched("v2")
    assert [c.release_id for c in only(bench.tried("v2", "bad"), RemoveRelease)] == ["v2"]


def test_files_that_nobody_knows_are_removed_once_a_desired_is_followed() -> None:
    bench = Bench()
    bench.feed(ev.Started(at=bench.at, settings=bench.state.settings, on_disk=(release("v9").release_id,)))
    assert [c.release_id for c in only(bench.desire(release("v1")), RemoveRelease)] == ["v9"]


def _probe(p50_ms: float) -> ModelProbe:
    timing = ThreadTiming(threads=1, p50_ms=p50_ms)
    return ModelProbe(mode=ExecutionMode.INLINE, workers=1, threads=1, by_threads=(timing,))


def _load(bench: Bench, **probes: ModelProbe) -> None:
    """Serving converges on the newest plan, and tells what it measured."""
    slots = tuple(
        SlotState(model=slot.model, release_id=slot.release_id, loaded=True, probe=probes.get(slot.release_id))
        for slot in bench.state.plan.slots
    )
    applied = Applied(serial=bench.state.plan.serial, boot_id=bench.boot, slots=slots)
    bench.feed(ev.PlanApplied(at=bench.at, applied=applied))


def test_report_tells_what_the_release_that_serves_was_measured_to_cost() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    told = [bench.report.slots[0].probe]
    _load(bench, v1=_probe(0.1))
    told.append(bench.report.slots[0].probe)
    _load(bench)
    told.append(bench.report.slots[0].probe)
    assert told == [msgspec.UNSET, _probe(0.1), _probe(0.1)]


def test_report_of_the_same_probe_again_is_not_published_again() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    _load(bench, v1=_probe(0.1))
    revision = bench.state.report_revision
    _load(bench, v1=_probe(0.1))
    assert bench.state.report_revision == revision


def test_report_tells_of_the_candidate_only_when_it_answers() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    _load(bench, v1=_probe(0.1))
    bench.stage("v2")
    _load(bench, v1=_probe(0.1), v2=_probe(0.2))
    in_shadow = bench.report.slots[0].probe
    bench.commit("v2")
    _load(bench, v2=_probe(0.2))
    assert (in_shadow, bench.report.slots[0].probe) == (_probe(0.1), _probe(0.2))
