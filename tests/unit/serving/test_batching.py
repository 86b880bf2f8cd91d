"""Requests that are answered together: each gets what it would have got alone, and its share of what that took."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.serving.models.batching import Batcher, Gathering, is_rowwise, kind_of
from agent.serving.models.lane import Lane
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor, Outcome
from shared.errors import ModelFailedError, PipelineError
from shared.pipeline import MODEL_ONLY, Normalise, PipelineSpec, RunModel, Softmax, TopLabels
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import models
from tests.support.interpreters import DirectedInterpreter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

LABELS = tuple("abcdefghij")
LABELLED = PipelineSpec(steps=(Normalise(scale=2.0), RunModel(), Softmax(), TopLabels(count=2)), labels=LABELS)
FLAT = {1: 1.0, 4: 1.2, 16: 1.5}


def infer(*positions: int, width: int = 10, name: str = "input") -> InferRequest:
    """Rows with a 1 at these places."""
    return InferRequest(inputs=(NamedTensor(name=name, array=np.eye(width, dtype=np.float32)[list(positions)]),))


class Recorded:
    """A batcher whose model records the sizes of its batches."""

    def __init__(
        self, compute: Callable[[Tensor], Tensor] = lambda items: items, *, spec: PipelineSpec = MODEL_ONLY
    ) -> None:
        self.sizes: list[int] = []

        def answer(items: Tensor) -> Tensor:
            self.sizes.append(len(items))
            return compute(items)

        def lane() -> Lane:
            return Lane(spec, DirectedInterpreter(answer))

        self.batcher = Batcher(lane(), {4: lane(), 16: lane()}, FLAT)

    def tops(self, *requests: InferRequest) -> list[str]:
        """The best answer of each."""
        return [each.top if isinstance(each, Outcome) else each.reason for each in self.batcher.run_all(requests)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 15, 16])
def test_requests_that_are_answered_together_get_each_its_own_answer(count: int) -> None:
    wanted = [number % 10 for number in range(count)]
    assert Recorded().tops(*(infer(each) for each in wanted)) == [str(each) for each in wanted]


def test_batches_are_only_of_the_sizes_that_have_an_interpreter() -> None:
    recorded = Recorded()
    for count in range(1, 17):
        recorded.tops(*(infer(3) for _ in range(count)))
    assert set(recorded.sizes) <= {1, 4, 16}


def test_requests_of_several_rows_get_their_own_rows() -> None:
    outcomes = Recorded().batcher.run_all([infer(1, 2), infer(3), infer(4, 5, 6)])
    found = [each.outputs[0].array.argmax(axis=1).tolist() for each in outcomes if isinstance(each, Outcome)]
    assert found == [[1, 2], [3], [4, 5, 6]]


def test_pipeline_of_tensors_is_answered_together_with_its_labels() -> None:
    recorded = Recorded(spec=LABELLED)
    outcomes = recorded.batcher.run_all([infer(2), infer(7)])
    assert [each.outputs[1].array.tolist() for each in outcomes if isinstance(each, Outcome)] == [["c"], ["h"]]
    assert recorded.sizes == [4]


@pytest.mark.parametrize("spec", [MODEL_ONLY, LABELLED], ids=["tensors", "pipeline"])
def test_real_model_answers_together_what_it_answers_alone(spec: PipelineSpec) -> None:
    model = models.random_classifier(10, 10, seed=3, batch=-1)

    def lane() -> Lane:
        return Lane(spec, LiteRtInterpreter(model, threads=1))

    batcher, rng = Batcher(lane(), {4: lane(), 16: lane()}, FLAT), np.random.default_rng(1)
    requests = [
        InferRequest(inputs=(NamedTensor(name="x", array=rng.random((1, 10)).astype(np.float32)),)) for _ in range(11)
    ]
    together, alone = batcher.run_all(requests), [batcher.run(each) for each in requests]
    for joined, single in zip(together, alone, strict=True):
        assert isinstance(joined, Outcome)
        assert joined.top == single.top
        np.testing.assert_allclose(joined.outputs[0].array, single.outputs[0].array, rtol=1e-5)
        np.testing.assert_allclose(joined.values, single.values, rtol=1e-5)


def _break_on_seven(items: Tensor) -> Tensor:
    if items[:, 7].any():
        raise RuntimeError("seven")
    return items


def _nan_for_seven(items: Tensor) -> Tensor:
    return np.where(items[:, 7:8] > 0, np.nan, items)


@pytest.mark.parametrize("compute", [_break_on_seven, _nan_for_seven])
def test_attack_request_that_breaks_a_batch_spoils_nobody_elses_answer(compute: Callable[[Tensor], Tensor]) -> None:
    recorded = Recorded(compute, spec=PipelineSpec(steps=(RunModel(), Softmax())))
    assert recorded.tops(infer(1), infer(7), infer(3)) == ["1", "model_failed", "3"]
    assert recorded.sizes == [4, 1, 1, 1]


def test_attack_item_with_nan_is_refused_alone() -> None:
    bad = InferRequest(inputs=(NamedTensor(name="input", array=np.full((1, 10), np.nan, np.float32)),))
    found = Recorded(spec=LABELLED).batcher.run_all([infer(1), bad, infer(3)])
    assert isinstance(found[0], Outcome)
    assert isinstance(found[1], PipelineError)
    assert not isinstance(found[1], ModelFailedError)
    assert isinstance(found[2], Outcome)


def test_cost_of_a_batch_is_divided_by_its_rows_and_its_invocations_are_counted_once() -> None:
    outcomes = [each for each in Recorded().batcher.run_all([infer(1), infer(2, 3)]) if isinstance(each, Outcome)]
    one, two = outcomes
    assert two.invoke_ms == pytest.approx(2 * one.invoke_ms)
    assert two.compute_ms == pytest.approx(2 * one.compute_ms)
    assert (one.batch, two.batch) == (3, 3)
    assert (one.moments.runs, two.moments.runs) == (1, 0)


def test_request_alone_was_in_no_batch() -> None:
    (outcome,) = Recorded().batcher.run_all([infer(1)])
    assert isinstance(outcome, Outcome)
    assert outcome.batch == 1


def test_single_input_has_the_kind_of_any_other_of_its_form_whatever_it_is_called() -> None:
    assert kind_of(infer(1, name="a"), most=16) == kind_of(infer(2, 3, name="b"), most=16) is not None


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(infer(1, width=9), id="another width"),
        pytest.param(InferRequest(inputs=(NamedTensor(name="x", array=np.zeros((1, 10))),)), id="another type"),
    ],
)
def test_requests_of_another_form_are_of_another_kind(request_: InferRequest) -> None:
    assert kind_of(request_, most=16) != kind_of(infer(1), most=16)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(infer(*range(10), *range(7)), id="more rows than the largest batch"),
        pytest.param(infer(), id="no rows"),
        pytest.param(ClassifyRequest(encoded=b""), id="image"),
        pytest.param(InferRequest(inputs=()), id="no inputs"),
        pytest.param(InferRequest(inputs=(NamedTensor(name="x", array=np.zeros((), np.float32)),)), id="no batch axis"),
        pytest.param(InferRequest(inputs=(NamedTensor(name="x", array=np.array([["a"]], object)),)), id="text"),
    ],
)
def test_what_cannot_share_an_invocation_has_no_kind(request_: InferRequest) -> None:
    assert kind_of(request_, most=16) is None


def test_pipeline_that_treats_rows_one_by_one_may_be_joined_and_no_other() -> None:
    assert is_rowwise(MODEL_ONLY)
    assert is_rowwise(LABELLED)
    assert not is_rowwise(PipelineSpec(steps=(RunModel(), RunModel())))


async def test_requests_of_one_turn_of_the_loop_share_an_invocation() -> None:
    recorded = Recorded()
    gathering = Gathering(recorded.batcher, asyncio.get_running_loop())
    waiting = [gathering.join(infer(each), "kind") for each in (1, 2, 3)]
    assert [(await each).top for each in waiting] == ["1", "2", "3"]
    assert recorded.sizes == [4]


async def test_more_requests_than_a_batch_holds_are_cut_and_all_answered() -> None:
    recorded = Recorded()
    gathering = Gathering(recorded.batcher, asyncio.get_running_loop())
    waiting = [gathering.join(infer(each % 10), "kind") for each in range(40)]
    assert [int((await each).top) for each in waiting] == [each % 10 for each in range(40)]
    assert recorded.sizes == [16, 16, 16]


async def test_caller_who_gave_up_costs_the_others_nothing() -> None:
    gathering = Gathering(Recorded().batcher, asyncio.get_running_loop())
    gone, stays = gathering.join(infer(1), "kind"), gathering.join(infer(2), "kind")
    gone.cancel()
    assert (await stays).top == "2"


async def test_gathering_stops_where_callers_come_one_at_a_time_and_looks_again_now_and_then() -> None:
    gathering = Gathering(Recorded().batcher, asyncio.get_running_loop())
    looked = []
    for _ in range(64):
        looked.append(gathering.pays)
        if looked[-1]:
            await gathering.join(infer(1), "kind")
    assert 0 < sum(looked[16:]) <= 4


async def test_callers_who_come_together_again_are_found_by_the_next_look() -> None:
    recorded = Recorded()
    gathering = Gathering(recorded.batcher, asyncio.get_running_loop())
    for _ in range(20):
        if gathering.pays:
            await gathering.join(infer(1), "kind")
    recorded.sizes.clear()
    for _ in range(2):
        # As an instance does: joined while gathering pays, else answered on the spot.
        joined = [gathering.join(infer(1), "kind") for _ in range(16) if gathering.pays]
        if joined:
            await asyncio.wait(joined)
    assert gathering.pays
    assert recorded.sizes[-1] == 16
