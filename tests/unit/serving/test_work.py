from __future__ import annotations

import numpy as np
import pytest

from agent.serving.exchange import Ask, LiveRoute, Reply
from agent.serving.requests import InferRequest, Moments, NamedTensor, Outcome
from agent.serving.work import Work
from shared.ids import ModelName

DIGITS = ModelName("digits")


def reply(*, rows: int, runs: int, received_s: float = 10.0) -> Reply:
    """Parsed at +1 ms, taken at +3 ms, invoked at +4 ms, ended at +9 ms with 4 ms inside the model."""
    request = InferRequest(inputs=(NamedTensor(name="x", array=np.zeros((rows, 2))),))
    route = LiveRoute(model=DIGITS, primary=None, shadow=None, candidate=None, max_latency_ratio=2.0, reason="")
    moments = Moments(began_s=received_s + 0.003, invoked_s=received_s + 0.004, ended_s=received_s + 0.009, runs=runs)
    outcome = Outcome(
        outputs=(),
        labels=(),
        top="",
        confidence=None,
        values=np.empty(0),
        invoke_ms=4.0,
        compute_ms=4.0,
        moments=moments,
    )
    ask = Ask(model=DIGITS, version=None, request=request, received_s=received_s)
    # Nothing here asks who answered.
    return Reply(ask=ask, route=route, instance=None, outcome=outcome, asked_s=received_s + 0.001)  # type: ignore[arg-type]  # see above


def test_work_of_a_request_is_the_sum_of_its_parts() -> None:
    work = Work()
    work.answered(reply(rows=3, runs=2), ready_s=10.010)
    assert (work.success_count, work.inferences, work.executions, work.last_s) == (1, 3, 2, 10.0)
    got = (work.queue_ns, work.input_ns, work.infer_ns, work.output_ns)
    assert got == pytest.approx((2_000_000, 2_000_000, 4_000_000, 2_000_000), abs=10)
    assert sum(got) == pytest.approx(work.success_ns, abs=10)


def test_work_of_many_requests_adds_up() -> None:
    work = Work()
    for _ in range(3):
        work.answered(reply(rows=1, runs=1), ready_s=10.010)
        work.failed(0.5)
    assert (work.success_count, work.inferences, work.fail_count) == (3, 3, 3)
    assert work.fail_ns == 1_500_000_000
    assert isinstance(work.success_ns, int)
