"""Several requests in one invocation. No timer: what waits together is answered together, and nothing waits for it.

The cost of a batch is divided by its rows, so that the figures of a request are its share. They are not comparable with
those of a request that ran alone: requests by which a candidate is compared run alone (`Instance.run`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.serving.models.lane import best, first_items
from agent.serving.requests import InferRequest, Moments, NamedTensor, Outcome
from shared.errors import PipelineError
from shared.pipeline import DecodeImage, Normalise, PipelineSpec, ResizeImage, RunModel, Softmax, TopLabels

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Mapping, Sequence

    from agent.serving.models.lane import Lane
    from agent.serving.requests import Request

    Answered = Outcome | PipelineError

_ROWWISE: Final = frozenset({DecodeImage, ResizeImage, Normalise, RunModel, Softmax, TopLabels})

# A turn of the loop costs a lone caller some 5 % of a request. After so many of them in a row there is one look in
# sixteen requests.
_LONELY: Final = 8
_LOOK_EVERY: Final = 16


def is_rowwise(spec: PipelineSpec) -> bool:
    """Tell whether the pipeline runs one model once, and treats every row for itself."""
    kinds = [type(step) for step in spec.steps]
    return len(set(kinds)) == len(kinds) and _ROWWISE.issuperset(kinds)


def kind_of(request: Request, *, most: int) -> Hashable | None:
    """Return what requests must have in common to be answered together; None for one that runs alone.

    Only the size of the batch may differ: a request that the model cannot take shares its kind with none that it can.
    """
    if not isinstance(request, InferRequest) or not request.inputs or request.rows > most:
        return None
    rows = {each.array.shape[:1] for each in request.inputs}
    if len(rows) != 1 or rows & {(), (0,)} or any(each.array.dtype.kind == "O" for each in request.inputs):
        return None
    if len(request.inputs) == 1:
        # A single input may have any name.
        only = request.inputs[0].array
        return (only.dtype, only.shape[1:])
    return tuple((each.name, each.array.dtype, each.array.shape[1:]) for each in request.inputs)


class Batcher:
    """A lane, and one more for each size of batch that pays. As a lane, not for two threads at once."""

    def __init__(self, lane: Lane, buckets: Mapping[int, Lane], timed_ms: Mapping[int, float]) -> None:
        """`timed_ms` is what a batch of each size takes, that of 1 included where there are buckets."""
        self.lane = lane
        self.lanes = {1: lane, **buckets}
        """By the rows of a batch."""
        self.most = max(self.lanes)
        """Rows that are answered together at most."""
        self.interpreters = len(self.lanes)
        self._pieces = _cheapest({size: timed_ms.get(size, 1.0) for size in self.lanes}, self.most)

    def run(self, request: Request) -> Outcome:
        """Answer one. Raises PipelineError or ModelFailedError."""
        return self.lane.run(request)

    def run_all(self, requests: Sequence[Request]) -> list[Answered]:
        """Answer requests of one kind, together no more than `most` rows; each gets its answer or its own error."""
        if len(requests) > 1:
            joined = [each for each in requests if isinstance(each, InferRequest)]
            try:
                return [*self._run_joined(joined)]
            except PipelineError:
                # One of them spoils it, or the batch does: each is told by itself.
                pass
        return [self._run_alone(each) for each in requests]

    def _run_alone(self, request: Request) -> Answered:
        try:
            return self.lane.run(request)
        except PipelineError as exc:
            return exc

    def _run_joined(self, requests: Sequence[InferRequest]) -> list[Outcome]:
        rows = [each.rows for each in requests]
        columns = zip(*(each.inputs for each in requests), strict=True)
        inputs = [(column[0].name, np.concatenate([each.array for each in column])) for column in columns]
        outcomes, start = [], 0
        for size in self._pieces[sum(rows)]:
            piece = tuple(
                NamedTensor(name=name, array=_padded(array[start : start + size], size)) for name, array in inputs
            )
            outcomes.append(self.lanes[size].run(InferRequest(inputs=piece)))
            start += size
        return _split(outcomes, rows, self.lane.labels)


def _padded(array: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    # With a row that is there anyway: made-up numbers might be out of some range.
    missing = size - len(array)
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def _cheapest(timed_ms: Mapping[int, float], most: int) -> list[tuple[int, ...]]:
    """Return, for each number of rows up to `most`, the batches that answer them soonest; the last is padded."""
    cost_ms: list[float] = [0.0]
    pieces: list[tuple[int, ...]] = [()]
    for rows in range(1, most + 1):
        size = min(timed_ms, key=lambda each: timed_ms[each] + cost_ms[max(0, rows - each)])
        rest = max(0, rows - size)
        cost_ms.append(timed_ms[size] + cost_ms[rest])
        pieces.append(tuple(sorted((*pieces[rest], size), reverse=True)))
    return pieces


def _split(outcomes: Sequence[Outcome], rows: Sequence[int], names: tuple[str, ...]) -> list[Outcome]:
    total = sum(rows)
    columns = list(zip(*(outcome.outputs for outcome in outcomes), strict=True))
    outputs = [
        (column[0].name, column[0].array if len(column) == 1 else np.concatenate([each.array for each in column]))
        for column in columns
    ]
    invoke_ms = sum(each.invoke_ms for each in outcomes) / total
    compute_ms = sum(each.compute_ms for each in outcomes) / total
    began, ended = outcomes[0].moments, outcomes[-1].moments
    # Invocations are counted once, with the request that stands first.
    runs, start, made = sum(each.moments.runs for each in outcomes), 0, []
    for count in rows:
        own = tuple(NamedTensor(name=name, array=array[start : start + count]) for name, array in outputs)
        top, confidence = best(own, names)
        made.append(
            Outcome(
                outputs=own,
                labels=(),
                top=top,
                confidence=confidence,
                values=first_items(own),
                invoke_ms=invoke_ms * count,
                compute_ms=compute_ms * count,
                moments=Moments(began.began_s, began.invoked_s, ended.ended_s, 0 if start else runs),
                batch=total,
            )
        )
        start += count
    return made


class Gathering:
    """Joins the requests that reach the event loop in turns of it one after the other; belongs to the loop."""

    def __init__(self, batcher: Batcher, loop: asyncio.AbstractEventLoop) -> None:
        self._batcher, self._loop = batcher, loop
        self._waiting: dict[Hashable, list[tuple[InferRequest, asyncio.Future[Outcome]]]] = {}
        self._lonely = 0

    @property
    def pays(self) -> bool:
        """Whether to gather at all: while callers come one at a time, a look now and then is enough."""
        if self._waiting or self._lonely < _LONELY:
            return True
        self._lonely += 1
        return self._lonely % _LOOK_EVERY == 0

    def join(self, request: InferRequest, kind: Hashable) -> asyncio.Future[Outcome]:
        """Answer it with all others that come before a turn of the loop in which nobody comes."""
        settled: asyncio.Future[Outcome] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._look, 0)
        self._waiting.setdefault(kind, []).append((request, settled))
        return settled

    def _look(self, seen: int) -> None:
        """Answer those who wait, but not while every turn brings more: who came in this one is read by the next."""
        count = sum(map(len, self._waiting.values()))
        if not self._lonely and seen < count < self._batcher.most:
            self._loop.call_soon(self._look, count)
            return
        self._answer()

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for of_a_kind in waiting.values():
            self._lonely = 0 if len(of_a_kind) > 1 else self._lonely + 1
            for batch in _up_to(self._batcher.most, of_a_kind):
                results = self._batcher.run_all([request for request, _ in batch])
                for (_, settled), result in zip(batch, results, strict=True):
                    settle(settled, result)


def _up_to(
    most: int, waiting: Sequence[tuple[InferRequest, asyncio.Future[Outcome]]]
) -> list[list[tuple[InferRequest, asyncio.Future[Outcome]]]]:
    """Cut into batches of at most so many rows, in order."""
    batches: list[list[tuple[InferRequest, asyncio.Future[Outcome]]]] = []
    room = 0
    for each in waiting:
        if each[0].rows > room:
            batches.append([])
            room = most
        batches[-1].append(each)
        room -= each[0].rows
    return batches


def settle(settled: asyncio.Future[Outcome], result: Answered) -> None:
    """Hand an answer to who waits for it, unless he has given up."""
    if settled.done():
        return
    if isinstance(result, PipelineError):
        settled.set_exception(result)
    else:
        settled.set_result(result)
