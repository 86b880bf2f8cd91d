"""What a model is measured to cost, and what is chosen by it; the stopwatch goes on by what runs are said to cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.serving.models.probing import EXTRA_BYTES, probe_model, time_runs, zeros
from shared.errors import PipelineError
from shared.manifest import TensorSpec
from shared.probe import ExecutionMode
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import models
from tests.support.interpreters import DirectedInterpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from agent.serving.models.probing import Probed
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]


class Stopwatch:
    """Goes on only by what it is told, and a hair with each look, as a real one does."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        """Look."""
        self._now_s += 1e-9
        return self._now_s

    def spend(self, ms: float) -> None:
        """Let so much pass."""
        self._now_s += ms / 1000


class Machine:
    """Opens models that take as long as it is told for so many threads and rows, and counts them."""

    def __init__(
        self, cost_ms: Callable[[int, int], float], *, answer: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._cost_ms, self._answer = cost_ms, answer or (lambda items: items)
        self.opened: list[int] = []
        self.runs = 0
        self.stopwatch = Stopwatch()

    def open(self, threads: int) -> Interpreter:
        """Open one."""
        self.opened.append(threads)

        def compute(items: Tensor) -> Tensor:
            self.runs += 1
            self.stopwatch.spend(self._cost_ms(threads, len(items)))
            return self._answer(items)

        return DirectedInterpreter(compute)


def probed(machine: Machine, *, cores: int = 2, threads: int = 1, may_join: bool = True) -> Probed:
    return probe_model(
        machine.open, threads=threads, cores=cores, example=None, may_join=may_join, stopwatch=machine.stopwatch
    )


def test_fast_model_runs_on_the_loop_and_has_a_second_interpreter_for_the_rest() -> None:
    machine = Machine(lambda _threads, _rows: 0.0)
    found = probed(machine)
    assert (found.probe.mode, found.probe.workers, found.probe.threads) == (ExecutionMode.INLINE, 1, 1)
    assert found.spare is not None
    # What takes next to nothing can gain next to nothing.
    assert (found.probe.batches, machine.opened) == ((), [1, 1])


def test_small_model_that_threads_do_not_help_gets_a_worker_a_core() -> None:
    found = probed(Machine(lambda _threads, rows: 2.0 * rows), cores=2)
    assert (found.probe.mode, found.probe.workers, found.probe.threads) == (ExecutionMode.WORKERS, 2, 1)
    assert found.spare is not None


def test_model_that_threads_help_fully_gets_them_and_one_interpreter() -> None:
    machine = Machine(lambda threads, rows: 4.0 * rows / threads)
    found = probed(machine, cores=2)
    assert (found.probe.workers, found.probe.threads, found.spare) == (1, 2, None)
    assert [each.threads for each in found.probe.by_threads] == [1, 2]


def test_large_model_gets_threads_although_workers_would_answer_more() -> None:
    # A model of that size would take the test too long: the memory that is measured is made up.
    sizes = iter([0, 100 * 1024 * 1024])
    machine = Machine(lambda threads, rows: 4.0 * rows / threads**0.5)
    found = probe_model(
        machine.open,
        threads=1,
        cores=2,
        example=None,
        may_join=True,
        memory=lambda: next(sizes),
        stopwatch=machine.stopwatch,
    )
    assert (found.probe.workers, found.probe.threads, found.spare) == (1, 2, None)
    assert found.probe.interpreter_bytes == 100 * 1024 * 1024


def test_large_file_is_in_memory_once_at_a_time_while_it_is_probed() -> None:
    stopwatch = Stopwatch()
    open_now: list[int] = []
    seen: list[int] = []

    class Counted:
        inputs = outputs = (TensorSpec(name="x", dtype="float32", shape=(-1, 10)),)

        def __init__(self, threads: int) -> None:
            self._threads = threads
            open_now.append(threads)
            seen.append(len(open_now))

        def __del__(self) -> None:
            open_now.remove(self._threads)

        def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
            """Take half the time with two threads."""
            stopwatch.spend(1.0 / self._threads)
            return list(inputs)

    size = 2 * EXTRA_BYTES
    found = probe_model(Counted, threads=1, cores=2, example=None, may_join=True, size_bytes=size, stopwatch=stopwatch)
    assert (max(seen), open_now, found.probe.threads) == (1, [2], 2)
    assert found.probe.batches == ()


def test_workers_and_their_threads_are_never_more_than_the_cores() -> None:
    for cores in (1, 2, 3, 4):
        found = probed(Machine(lambda threads, rows: 1.0 * rows / threads**0.5), cores=cores)
        assert 1 <= found.probe.workers * found.probe.threads <= cores


def test_threads_that_somebody_has_measured_before_are_kept() -> None:
    machine = Machine(lambda _threads, rows: 1.0 * rows)
    found = probed(machine, threads=2, cores=4)
    assert found.probe.threads == 2
    assert set(machine.opened) == {2}


def test_batches_are_made_where_a_row_gains_by_them() -> None:
    found = probed(Machine(lambda _threads, rows: 1.0 + 0.05 * rows))
    assert found.probe.batches == (4, 16)
    assert set(found.buckets) == {4, 16}
    assert [each.batch for each in found.probe.by_batch] == [1, 4, 16]


def test_batches_are_not_made_where_a_row_gains_nothing_and_larger_ones_not_tried() -> None:
    found = probed(Machine(lambda _threads, rows: 1.0 * rows))
    assert (found.probe.batches, dict(found.buckets)) == ((), {})
    assert [each.batch for each in found.probe.by_batch] == [1, 4]


def test_batches_are_not_made_of_what_may_not_be_joined() -> None:
    found = probed(Machine(lambda _threads, rows: 1.0 + 0.05 * rows), may_join=False)
    assert (found.probe.batches, found.probe.by_batch) == ((), ())


def _over_the_batch(items: Tensor) -> Tensor:
    return np.asarray(items - items.mean(axis=0))


def _all_in_one(items: Tensor) -> Tensor:
    return np.asarray(items.sum(axis=0, keepdims=True))


@pytest.mark.parametrize("answer", [_over_the_batch, _all_in_one])
def test_model_that_mixes_its_rows_is_never_given_those_of_others(answer: Callable[[Tensor], Tensor]) -> None:
    found = probed(Machine(lambda _threads, rows: 1.0 + 0.05 * rows, answer=answer))
    assert found.probe.batches == ()


def test_model_that_takes_no_batch_whatever_its_signature_says_runs_row_by_row() -> None:
    def refuse(items: Tensor) -> Tensor:
        if len(items) > 1:
            raise PipelineError("one at a time")
        return items

    assert probed(Machine(lambda _threads, _rows: 1.0, answer=refuse)).probe.batches == ()


def test_slow_model_is_run_once_in_each_setting() -> None:
    machine = Machine(lambda _threads, _rows: 30.0)
    probed(machine)
    # Alone, and with two threads.
    assert (machine.runs, machine.opened) == (2, [1, 2, 1])


def test_real_model_with_a_fixed_batch_is_not_batched_and_one_with_a_free_batch_is_where_it_pays() -> None:
    fixed, free = (models.random_classifier(784, 1000, seed=1, batch=batch) for batch in (1, -1))

    def probe(model: bytes) -> Probed:
        def opened(threads: int) -> Interpreter:
            return LiteRtInterpreter(model, threads=threads)

        return probe_model(opened, threads=1, cores=1, example=None, may_join=True)

    assert probe(fixed).probe.batches == ()
    # Whether it pays is for the machine to say; that it was tried is not.
    assert [each.batch for each in probe(free).probe.by_batch][:2] == [1, 4]


def test_runs_are_timed_after_one_that_warms_up() -> None:
    machine = Machine(lambda _threads, _rows: 0.0)
    timing = time_runs(machine.open(1), [np.zeros((1, 10), np.float32)], machine.stopwatch)
    assert 0.0 < timing.least_ms <= timing.p50_ms
    assert machine.runs == 26


class _TwoInputs:
    """A model whose inputs are of two kinds."""

    inputs = (TensorSpec(name="a", dtype="int8", shape=(-1, 3)), TensorSpec(name="b", dtype="float32", shape=()))
    outputs = inputs

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Give back what came."""
        return list(inputs)


def test_zeros_fit_every_input_also_where_its_batch_is_free() -> None:
    made = zeros(_TwoInputs())
    assert [(array.dtype.name, array.shape) for array in made] == [("int8", (1, 3)), ("float32", ())]
