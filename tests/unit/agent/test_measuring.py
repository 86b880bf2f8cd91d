"""Artifacts that are only measured: when it is their turn, what stops them, and how each of them ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core import events as ev
from agent.core import measuring
from agent.core.commands import ForgetMeasurement, MeasureArtifact, PauseMeasurement
from agent.core.events import FetchProblem
from agent.core.plan import MeasureResult
from agent.core.state import Identity, Phase
from shared.ids import DeviceId, InstallationId, MeasurementId, Sha256
from shared.manifest import digest, measurement_path
from shared.wire import DesiredModel, Figures, MeasurementReport, TargetRef, WantedMeasurement
from tests.support.device_core import DIRECTOR, SETTINGS, Bench, only, release

if TYPE_CHECKING:
    from agent.core.commands import Command
    from agent.core.state import Measurement

FIGURES = Figures(
    runs=100, cpu_p50_ms=1.0, cpu_p95_ms=2.0, wall_p50_ms=1.5, wall_p95_ms=9.0, peak_memory_bytes=1_000_000
)


@pytest.fixture
def bench() -> Bench:
    """A device that serves a release and has heard a Pulse."""
    bench = Bench()
    bench.start()
    bench.commit("v1")
    return bench


def wanted(name: str) -> WantedMeasurement:
    sha256 = digest(name.encode())
    return WantedMeasurement(
        measurement_id=MeasurementId(name),
        artifact=TargetRef(path=measurement_path(sha256), length_bytes=20, sha256=sha256),
    )


def list_(bench: Bench, *names: str, models: tuple[DesiredModel, ...] = (release("v1"),)) -> tuple[Command, ...]:
    """Receive a Desired that lists measurements beside models."""
    bench.generation += 1
    desired = bench.desired(*models)
    body = msgspec.structs.replace(desired.body, measurements=tuple(map(wanted, names)) or msgspec.UNSET)
    desired = msgspec.structs.replace(desired, body=body)
    return bench.feed(ev.DesiredReceived(at=bench.at, desired=desired, key_id=DIRECTOR))


def finished(bench: Bench, name: str, figures: Figures | None = FIGURES, reason: str = "") -> tuple[Command, ...]:
    result = MeasureResult(figures=figures, reason=reason)
    return bench.feed(ev.MeasurementFinished(at=bench.at, measurement_id=MeasurementId(name), result=result))


def delayed(bench: Bench, name: str, problem: FetchProblem = FetchProblem.DELAYED) -> tuple[Command, ...]:
    return bench.feed(
        ev.MeasurementDelayed(at=bench.at, measurement_id=MeasurementId(name), problem=problem, reason="why: so")
    )


def found(bench: Bench, name: str) -> Measurement:
    (one,) = (m for m in bench.state.measurements if m.wanted.measurement_id == name)
    return one


def phase(bench: Bench) -> Phase:
    return bench.model.phase


def told(bench: Bench) -> dict[str, MeasurementReport]:
    listed = bench.report.measurements
    return {} if listed is msgspec.UNSET else {str(one.measurement_id): one for one in listed}


def test_measurement_begins_at_once_on_a_device_at_rest(bench: Bench) -> None:
    (command,) = only(list_(bench, "m1"), MeasureArtifact)
    assert command.wanted == wanted("m1")
    assert (command.max_memory_bytes, command.deadline_s) == (SETTINGS.trial_memory_bytes, SETTINGS.trial_deadline_s)


def test_measurement_changes_neither_plan_nor_slots(bench: Bench) -> None:
    plan, models = bench.state.plan, bench.state.models
    list_(bench, "m1")
    finished(bench, "m1")
    assert (bench.state.plan, [m.stable for m in bench.state.models]) == (plan, [m.stable for m in models])


def test_second_measurement_waits_for_the_first(bench: Bench) -> None:
    assert [c.wanted.measurement_id for c in only(list_(bench, "m1", "m2"), MeasureArtifact)] == ["m1"]
    assert only(bench.wait(1), MeasureArtifact) == ()
    assert [c.wanted.measurement_id for c in only(finished(bench, "m1"), MeasureArtifact)] == ["m2"]


def test_result_is_reported_until_the_desired_lists_it_no_more(bench: Bench) -> None:
    list_(bench, "m1")
    finished(bench, "m1")
    (report,) = told(bench).values()
    assert (report.figures, report.reason, report.sha256) == (FIGURES, "", wanted("m1").artifact.sha256)
    assert (report.runtime, report.runtime_version) == (SETTINGS.hardware.runtime, SETTINGS.hardware.runtime_version)
    # Also to a controller that acknowledged it and was restored from before: Desired is the only acknowledgement.
    bench.feed(ev.ReportAcked(at=bench.at, revision=bench.state.report_revision))
    assert "m1" in told(bench)
    list_(bench)
    assert bench.report.measurements is msgspec.UNSET


def test_failed_measurement_is_reported_by_its_name(bench: Bench) -> None:
    list_(bench, "m1")
    finished(bench, "m1", None, "crashed: SIGSEGV\0" + "x" * 1000)
    report = told(bench)["m1"]
    assert report.figures is None
    assert report.reason.startswith("crashed: SIGSEGVx")
    assert len(report.reason) == 300


def test_rollout_that_comes_pauses_what_runs_and_it_begins_anew_after(bench: Bench) -> None:
    list_(bench, "m1")
    (paused,) = only(list_(bench, "m1", models=(release("v2"),)), PauseMeasurement)
    assert paused.measurement_id == "m1"
    assert phase(bench) is Phase.DOWNLOADING
    for _ in range(3):
        assert only(bench.wait(1), MeasureArtifact) == ()
    bench.stage("v2")
    bench.applied()
    assert phase(bench) is Phase.SHADOW
    assert only(bench.wait(1), MeasureArtifact) == ()
    bench.measured("v2")
    bench.applied()
    bench.wait(11)
    bench.measured("v2")
    assert phase(bench) is Phase.IDLE
    assert len(only(tuple(bench.log), MeasureArtifact)) == 2
    assert (found(bench, "m1").running, found(bench, "m1").interruptions) == (True, 0)


def test_result_that_came_just_after_a_pause_counts(bench: Bench) -> None:
    list_(bench, "m1")
    list_(bench, "m1", models=(release("v2"),))
    finished(bench, "m1")
    assert told(bench)["m1"].figures == FIGURES


def test_measurement_waits_for_a_fresh_pulse() -> None:
    bench = Bench()
    bench.start()
    assert only(list_(bench, "m1", models=()), MeasureArtifact) == ()
    bench.pulse()
    assert len(only(bench.wait(1), MeasureArtifact)) == 1


def test_fetch_that_is_delayed_is_tried_again_ever_later_and_never_given_up(bench: Bench) -> None:
    list_(bench, "m1")
    for wait_s in (2, 4, 8, 16, 32, 64):
        delayed(bench, "m1")
        assert only(bench.wait(wait_s - 1), MeasureArtifact) == ()
        bench.pulse()
        assert len(only(bench.wait(1), MeasureArtifact)) == 1
    assert told(bench) == {}


@pytest.mark.parametrize("problem", [FetchProblem.CORRUPT, FetchProblem.REFUSED])
def test_fetch_that_brings_something_else_ends_the_measurement_after_four_tries(
    bench: Bench, problem: FetchProblem
) -> None:
    list_(bench, "m1")
    for _ in range(3):
        delayed(bench, "m1", problem)
        assert told(bench) == {}
        bench.wait(60)
    delayed(bench, "m1", problem)
    assert told(bench)["m1"].reason == "why: so"
    assert only(bench.wait(600), MeasureArtifact) == ()


def test_measurement_during_which_control_keeps_ending_is_given_up(bench: Bench) -> None:
    list_(bench, "m1")
    for _ in range(SETTINGS.boot_tries - 1):
        bench.start()
        bench.pulse()
        bench.wait(1)
        assert found(bench, "m1").running
    bench.start()
    assert told(bench)["m1"].reason == "interrupted: the agent ended during each of 3 tries"


def test_measurement_that_is_listed_no_more_is_forgotten(bench: Bench) -> None:
    list_(bench, "m1", "m2")
    forgotten = only(list_(bench, "m2"), ForgetMeasurement)
    assert [command.measurement_id for command in forgotten] == ["m1"]
    assert found(bench, "m2").running
    finished(bench, "m1")
    assert told(bench) == {}


def test_measurement_that_ended_is_not_begun_again_by_a_newer_desired(bench: Bench) -> None:
    list_(bench, "m1")
    finished(bench, "m1")
    assert only(list_(bench, "m1", "m2"), MeasureArtifact)[0].wanted == wanted("m2")
    assert set(told(bench)) == {"m1"}


def test_attack_endless_list_is_taken_up_in_part(bench: Bench) -> None:
    list_(bench, *(f"m{number}" for number in range(100)))
    assert len(bench.state.measurements) == measuring.MAX_LISTED


def test_measurements_of_another_identity_are_forgotten(bench: Bench) -> None:
    list_(bench, "m1")
    other = Identity(
        installation_id=InstallationId("other"), device_id=DeviceId("dev-1"), key_fingerprint=Sha256("e" * 64)
    )
    bench.feed(ev.Started(at=bench.at, settings=msgspec.structs.replace(SETTINGS, identity=other)))
    assert bench.state.measurements == ()


def test_measurements_survive_the_journal(bench: Bench) -> None:
    list_(bench, "m1", "m2")
    finished(bench, "m1")
    assert msgspec.json.decode(msgspec.json.encode(bench.state), type=type(bench.state)) == bench.state
