from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from agent.serving.errors import QueueFullError
from agent.serving.exchange import Ask, Caller, CallProtocol
from agent.serving.recording.recorder import CLASSES_KEPT, GONE_KEPT, OTHER, Recorder, Series
from agent.serving.recording.tally import ROWS_KEPT, Tally, count_all
from agent.serving.requests import InferRequest, Moments, NamedTensor, Outcome
from shared.errors import ModelFailedError
from shared.ids import BootId, ModelName, ReleaseId
from shared.metrics import CALLS, MetricKind
from shared.sketches import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.serving.exchange import Reply
    from agent.serving.recording.recorder import Held

DIGITS = ModelName("digits")
BROKEN = ModelFailedError("out of order")
FULL = QueueFullError("64 requests wait already")


def held(*releases: str) -> dict[ReleaseId, Held]:
    """Helds of which only the version is asked for."""
    slot = SimpleNamespace(version_number=7)
    return {ReleaseId(each): cast("Held", SimpleNamespace(slot=slot)) for each in releases}


def outcome(*, top: str = "", confidence: float | None = None, runs: int = 1, received_s: float = 10.0) -> Outcome:
    """Taken at +3 ms, invoked at +4 ms, ended at +9 ms with 4 ms inside the model."""
    moments = Moments(began_s=received_s + 0.003, invoked_s=received_s + 0.004, ended_s=received_s + 0.009, runs=runs)
    return Outcome(
        outputs=(),
        labels=(),
        top=top,
        confidence=confidence,
        values=np.empty(0),
        invoke_ms=4.0,
        compute_ms=4.0,
        moments=moments,
    )


def reply(
    given: Outcome, *, rows: int = 1, protocol: CallProtocol = CallProtocol.OIP, received_s: float = 10.0
) -> Reply:
    """Parsed at +1 ms."""
    request = InferRequest(inputs=(NamedTensor(name="x", array=np.zeros((rows, 2))),))
    ask = Ask(model=DIGITS, version=None, request=request, received_s=received_s, caller=Caller(protocol=protocol))
    # Nothing here asks who answered.
    return cast("Reply", SimpleNamespace(ask=ask, outcome=given, asked_s=received_s + 0.001))


def answers(series: Series, given: Iterable[Outcome]) -> None:
    """Count answers that were ready 10 ms after their requests."""
    for each in given:
        series.answered(reply(each), ready_s=10.010)


def test_recorder_of_a_long_life_keeps_what_is_held_and_what_left_last() -> None:
    recorder = Recorder(BootId("serving-1"))
    names = [ReleaseId(f"r{number}") for number in range(GONE_KEPT + 10)]
    for name in names:
        recorder.series(DIGITS, name).failed(BROKEN, CallProtocol.OIP, took_s=0.1)
        recorder.pairs(DIGITS, candidate=name, stable=names[0])
    recorder.hold(held(names[0]))
    stats = recorder.stats()
    assert [series.release_id for series in stats.series] == [names[0], *names[-GONE_KEPT:]]
    assert [pair.candidate for pair in stats.pairs] == [names[0], *names[-GONE_KEPT:]]


def test_recorder_forgets_nothing_while_few_have_left() -> None:
    recorder = Recorder(BootId("serving-1"))
    recorder.series(DIGITS, ReleaseId("gone")).failed(BROKEN, CallProtocol.OIP, took_s=0.1)
    recorder.hold({})
    assert [series.counts["requests"] for series in recorder.stats().series] == [1]


def test_recorder_names_a_release_by_its_version_as_long_as_it_is_told_of() -> None:
    recorder = Recorder(BootId("serving-1"))
    recorder.hold(held("r1", "idle"))
    recorder.series(DIGITS, ReleaseId("r1"))
    recorder.hold({})
    assert recorder.version_of(ReleaseId("r1")) == "7"
    assert recorder.version_of(ReleaseId("idle")) == "idle"


def test_work_of_a_request_is_the_sum_of_its_parts() -> None:
    series = Series()
    series.answered(reply(outcome(runs=2), rows=3), ready_s=10.010)
    work = series.work
    assert (work.success_count, work.inferences, work.executions, work.last_s) == (1, 3, 2, 10.0)
    got = (work.queue_ns, work.input_ns, work.infer_ns, work.output_ns)
    assert got == pytest.approx((2_000_000, 2_000_000, 4_000_000, 2_000_000), abs=10)
    assert sum(got) == pytest.approx(work.success_ns, abs=10)


def test_work_of_many_requests_adds_up_over_protocols_and_foldings() -> None:
    series = Series()
    for _ in range(ROWS_KEPT + 3):
        series.answered(reply(outcome()), ready_s=10.010)
        series.answered(reply(outcome(), protocol=CallProtocol.MAX, received_s=20.0), ready_s=20.010)
    series.failed(BROKEN, CallProtocol.MAX, took_s=0.5)
    work = series.work
    assert (work.success_count, work.fail_count, work.fail_ns) == (2 * (ROWS_KEPT + 3), 1, 500_000_000)
    assert work.last_s == 20.0
    assert series.counts == {"requests": 2 * (ROWS_KEPT + 3) + 1, "request_errors": 1, "request_refusals": 0}


def test_requests_are_counted_before_their_rows_are() -> None:
    series = Series()
    answers(series, [outcome()] * 3)
    assert series.counts["requests"] == 3


def test_failures_are_told_apart_by_kind_and_by_whose_fault_they_are() -> None:
    series = Series()
    series.failed(BROKEN, CallProtocol.OIP, took_s=0.1)
    series.refused(FULL, CallProtocol.OIP, took_s=0.1)
    tally = series.tallies[CallProtocol.OIP]
    assert (tally.errors, tally.refusals) == ({"model_failed": 1}, {"queue_full": 1})
    assert series.counts == {"requests": 2, "request_errors": 1, "request_refusals": 1}


def test_histograms_hold_each_answer_once_in_the_bucket_that_includes_it() -> None:
    series = Series()
    answers(series, [outcome(confidence=0.5), outcome(confidence=0.51), outcome(confidence=1.0), outcome()])
    histograms = series.tallies[CallProtocol.OIP].histograms
    assert histograms["confidence"].counts.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1]
    assert histograms["confidence"].total == pytest.approx(2.01)
    for name in ("latency_ms", "queue_ms", "pre_ms", "invoke_ms", "post_ms", "batch_items"):
        assert int(histograms[name].counts.sum()) == 4
        assert histograms[name].counts.dtype.kind == "i"


def test_sketches_of_a_batch_of_values_are_those_of_the_values_one_by_one() -> None:
    values = [0.0, 1e-12, 0.5, 3.0, 3.0, 1e15, 7.25]
    together, apart = Sketch(), Sketch()
    count_all(together, np.array(values))
    for value in values:
        apart.add(value)
    assert (together.bins, together.zeros) == (apart.bins, apart.zeros)
    assert together.total == pytest.approx(apart.total)


def test_runs_that_answered_nobody_are_in_the_sketches_and_in_no_count() -> None:
    series = Series()
    for _ in range(ROWS_KEPT + 1):
        series.ran(outcome(confidence=0.9))
    assert series.sketches["invoke_ms"].count == series.sketches["confidence"].count == ROWS_KEPT + 1
    assert series.sketches["latency_ms"].count == series.counts["requests"] == 0


def test_classes_beyond_the_bound_are_counted_together() -> None:
    series = Series()
    answers(series, [outcome(top=f"class-{number}") for number in range(CLASSES_KEPT + 5)])
    answers(series, [outcome(top="class-0")])
    assert len(series.classes) == CLASSES_KEPT + 1
    assert (series.classes["class-0"], series.classes[OTHER]) == (2, 5)


def test_parts_of_a_request_that_clocks_disagree_on_are_never_negative() -> None:
    tally = Tally()
    odd = outcome()
    moments = odd.moments._replace(began_s=9.0, invoked_s=8.0)
    tally.answered(reply(replace(odd, moments=moments)), ready_s=10.001)
    tally.fold({})
    assert min(tally.queue_ns, tally.pre_ns, tally.post_ns) >= 0


def test_every_histogram_of_a_call_is_a_row_of_the_table() -> None:
    rows = {row.name for row in CALLS if row.kind is MetricKind.HISTOGRAM}
    assert set(Tally().histograms) == rows
