"""The life of releases on one device, told from end to end."""

from __future__ import annotations

from agent.core.commands import ApplyPlan, FetchRelease, PublishReport, RequestDocuments, RunTrial, WriteBootFile
from agent.core.state import Phase
from shared.wire import AssignmentPhase, AssignmentStatus, PairedCounts
from tests.support.device_core import Bench, only, release


def test_device_first_release_reaches_stable_through_probation_alone() -> None:
    bench = Bench()
    assert only(bench.start(), RequestDocuments)
    bench.pulse()
    (fetch,) = only(bench.desire(release("v1")), FetchRelease)
    assert fetch.release == release("v1")
    assert (bench.route.primary, bench.route.unavailable_reason) == (None, "no_release_yet: downloading")
    (trial,) = only(bench.fetched("v1"), RunTrial)
    assert trial.request.folder == "/state/releases/v1"
    commands = bench.tried("v1")
    assert [type(c) for c in commands] == [WriteBootFile, ApplyPlan, PublishReport]
    assert (bench.model.phase, bench.route.primary, bench.route.shadow) == (Phase.PROBATION, "v1", None)
    bench.applied()
    bench.wait(11)
    bench.measured("v1", PairedCounts(), requests=5)
    assert bench.model.stable is not None
    assert bench.assignment("v1").status is AssignmentStatus.SUCCEEDED
    assert bench.assignment("v1").activated


def test_device_second_release_is_compared_then_answers_then_commits() -> None:
    bench = Bench()
    bench.commit("v1")
    bench.desire(release("v2"))
    bench.stage("v2")
    assert (bench.route.primary, bench.route.shadow, bench.route.candidate) == ("v1", "v2", "v2")
    bench.applied()
    bench.measured("v2", PairedCounts(pairs=5))
    assert bench.assignment("v2").phase is AssignmentPhase.SHADOW
    bench.measured("v2")
    assert (bench.route.primary, bench.route.shadow, bench.route.candidate) == ("v2", "v1", "v2")
    bench.applied()
    bench.wait(11)
    bench.measured("v2")
    assert (bench.route.primary, bench.route.shadow) == ("v2", None)
    assert bench.model.previous is not None
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED
