"""A release has run before it answers: every interpreter, in every size of batch, and images where it takes them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typing_extensions import override

from agent.serving.models.batching import Batcher
from agent.serving.models.lane import Lane
from agent.serving.models.loading import load_model, load_slot, open_litert
from agent.serving.models.warming import warm
from agent.serving.requests import ClassifyRequest
from shared.manifest import TensorSpec
from shared.pipeline import MODEL_ONLY, ColourMode, DecodeImage, PipelineSpec, ResizeImage, RunModel
from tests.support import models
from tests.support.serving import make_slot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.serving.requests import Outcome, Request
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

GOOD = models.one_hot_classifier()


class Counted:
    """An interpreter that counts its runs by their rows."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self.inputs, self.outputs = interpreter.inputs, interpreter.outputs
        self.rows: Counter[int] = Counter()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self.rows[len(inputs[0])] += 1
        return self._interpreter.run(inputs)


class Opening:
    """Opens counted interpreters."""

    def __init__(self) -> None:
        self.opened: list[Counted] = []

    def __call__(self, model: bytes, threads: int) -> Interpreter:
        self.opened.append(Counted(open_litert(model, threads)))
        return self.opened[-1]


def test_every_interpreter_has_run_before_the_release_can_answer(tmp_path: Path) -> None:
    opening = Opening()
    loaded = load_slot(make_slot(tmp_path, GOOD), cores=2, open_interpreter=opening)
    assert loaded.interpreters > 1
    # Buffers are made in the first run, so that from the second on none is slower than the tenth.
    assert min(each.rows.total() for each in opening.opened) >= 2


def test_model_without_recorded_requests_is_warmed_with_zeros() -> None:
    opening = Opening()
    load_model(GOOD, MODEL_ONLY, threads=1, cores=2, open_interpreter=opening)
    assert all(each.rows.total() for each in opening.opened)


def test_recorded_cases_run_once_each_in_every_size_of_batch() -> None:
    free = models.random_classifier(10, 3, seed=1, batch=-1)
    alone, joined = Counted(open_litert(free, 1)), Counted(open_litert(free, 1))
    batcher = Batcher(Lane(MODEL_ONLY, alone), {4: Lane(MODEL_ONLY, joined)}, {1: 1.0, 4: 1.0})
    case = [np.zeros((1, 10), np.float32)]
    warm(batcher, [case, case, case])
    assert alone.rows == {1: 3}
    assert joined.rows == {4: 3}


@pytest.mark.parametrize("colour", [ColourMode.GREY, ColourMode.RGB])
def test_image_pipeline_has_decoded_an_image_before_its_first_caller_sends_one(colour: ColourMode) -> None:
    depth = 1 if colour is ColourMode.GREY else 3
    model = models.one_hot_classifier(8 * 8 * depth, input_shape=(8, 8, depth))
    spec = PipelineSpec(steps=(DecodeImage(colour=colour), ResizeImage(width=8, height=8), RunModel()), labels=())
    counted = Counted(open_litert(model, 1))
    lane = Recorder(spec, counted)
    warm(Batcher(lane, {}, {}), [[np.zeros((1, 8, 8, depth), np.float32)]])
    assert [type(each) for each in lane.asked][:1] == [ClassifyRequest]
    assert counted.rows.total() >= 2


class Recorder(Lane):
    """A lane that remembers what it answered."""

    def __init__(self, spec: PipelineSpec, interpreter: Interpreter) -> None:
        super().__init__(spec, interpreter)
        self.asked: list[object] = []

    @override
    def run(self, request: Request) -> Outcome:
        outcome = super().run(request)
        self.asked.append(request)
        return outcome


def test_recorded_request_that_the_model_refuses_keeps_it_from_nothing() -> None:
    class Sulky(Counted):
        @override
        def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
            super().run(inputs)
            raise RuntimeError("out of order")

    sulky = Sulky(open_litert(GOOD, 1))
    sulky.inputs = (TensorSpec(name="input", dtype="float32", shape=(-1, 10)),)
    warm(Batcher(Lane(MODEL_ONLY, sulky), {}, {}), [[np.zeros((1, 10), np.float32)]])
    assert sulky.rows == {1: 1}
