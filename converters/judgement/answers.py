"""A model's answers to many samples: on every core, in the same order and blocks whatever the number of cores."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from shared.errors import ModelLoadError
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline, top_answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from converters.data.datasets import Samples
    from shared.manifest import TensorSpec
    from shared.pipeline import PipelineSpec
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

BLOCK = 32
"""Items that one core answers before it takes the next; a dense layer of free batch runs 3 times faster at 16."""
_AHEAD = 2
"""Blocks for each core that are under way at once: what is answered waits in memory until it is asked for."""
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The answers to consecutive items."""

    outputs: tuple[Tensor, ...]
    """`(B, Kᵢ)`: every output of the model, flat."""
    scores: NDArray[np.float32]
    """`(B, K)`: the first of them as the pipeline finishes it."""


class Answerer:
    """One model behind its pipeline, loaded once for each core; use it as a context manager."""

    def __init__(self, model: bytes, pipeline: PipelineSpec, *, cores: int, stateful: bool = False) -> None:
        """Load the model.

        Args:
            model: the `.tflite`.
            pipeline: what stands before and after it.
            cores: how many answer at once.
            stateful: each answer depends on those before it, so that one core answers all of them in order.

        Raises:
            ModelLoadError: the runtime refuses it.
            PipelineError: pipeline and model do not belong together.
        """
        self._cores = 1 if stateful else cores
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(self._cores):
            self._lanes.put(_Lane(pipeline, LiteRtInterpreter(model, threads=1)))
        self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="answer")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def over(self, samples: Samples, first: int | None = None) -> Iterator[Block]:
        """Yield the answers to all samples, or to the `first`, in order.

        Raises:
            PipelineError: the pipeline cannot take an item.
            ModelFailedError: the model breaks on one.
        """
        items = samples.blocks(BLOCK, first)
        waiting = [self._pool.submit(self._answer, block) for block in islice(items, self._cores * _AHEAD)]
        while waiting:
            done = waiting.pop(0).result()
            waiting += [self._pool.submit(self._answer, block) for block in islice(items, 1)]
            yield done

    def _answer(self, items: Tensor) -> Block:
        lane = self._lanes.get()
        try:
            return lane.answer(items)
        finally:
            self._lanes.put(lane)


class _Lane:
    def __init__(self, pipeline: PipelineSpec, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._pipeline = CompiledPipeline(pipeline, interpreter)
        self._batch = BLOCK if self._pipeline.model_input.shape[:1] == (-1,) else 1

    def answer(self, items: Tensor) -> Block:
        """Answer items, in batches where the model takes any."""
        rows = []
        for start in range(0, len(items), self._batch):
            fed = np.stack([self._pipeline.prepare(item) for item in items[start : start + self._batch]])
            outputs = self._interpreter.run([fed])
            rows.append([_flat(output, len(fed)) for output in outputs])
        outputs_of_all = tuple(np.concatenate(column) for column in zip(*rows, strict=True))
        return Block(outputs=outputs_of_all, scores=self._pipeline.finish(outputs_of_all[0]))


def answer_all(scores: Tensor) -> NDArray[np.int64]:
    """Return the answer of each row of `(B, K)` scores; -1 where that is no number."""
    # argmax takes a NaN for the greatest, and would count it right wherever it stands on the label.
    return np.where(np.isfinite(scores).all(axis=1), top_answers(scores), -1)


def confidence(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return `(N,)`: how probable the source holds its answers, 0..1, whether scores are probabilities or logits."""
    exact = scores.astype(np.float64)
    if exact.shape[1] == 1:
        probable = exact[:, 0] if _within(exact) else 1 / (1 + np.exp(-np.clip(exact[:, 0], -500, 500)))
        return np.asarray(np.maximum(probable, 1 - probable))
    if _within(exact) and np.allclose(exact.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return np.asarray(exact.max(axis=1))
    # The largest of a softmax, without the others.
    return np.asarray(1 / np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1))


def classifies(outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether the model's answer is a choice among classes: one output, one score for each."""
    return len(outputs) == 1 and int(np.prod([abs(size) for size in outputs[0].shape[1:-1]], dtype=int)) == 1


def _within(scores: Tensor) -> bool:
    return bool(scores.min() >= -_SUM_TOLERANCE and scores.max() <= 1 + _SUM_TOLERANCE)


def _flat(output: Tensor, items: int) -> Tensor:
    if output.size % items:
        raise ModelLoadError(f"the model answers {items} items with {output.size} numbers")
    return output.reshape(items, -1)
