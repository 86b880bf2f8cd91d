"""One interpreter with its pipeline: what a single thread needs to answer a request."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.serving.protocols.answers import answer_tensors, scores_and_labels, told_best
from agent.serving.requests import ClassifyRequest, InferRequest, Moments, NamedTensor, Outcome
from shared.errors import LitefleetError, ModelFailedError, PipelineError
from shared.manifest import TensorSpec
from shared.pipeline import (
    MODEL_ONLY,
    OWN_MODEL,
    ColourMode,
    DecodeImage,
    Normalise,
    PipelineSpec,
    ResizeImage,
    takes_images,
)
from shared.runtime.pipeline import CompiledPipeline
from shared.runtime.values import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agent.serving.requests import Request
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]
    Answered = Answer | PipelineError

_FREE = -1
_MATRIX = 2
_NUMBERS = "biuf"


class _Stopwatch:
    """How long the runs of a lane's models took, since a request began."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the request before."""
        self.spent_s, self.runs = 0.0, 0
        self.began_s = self.invoked_s = self.ended_s = time.monotonic()

    def moments(self) -> Moments:
        """Return what was seen since `begin`."""
        return Moments(self.began_s, self.invoked_s, self.ended_s, self.runs)


class _Timed:
    """An interpreter whose runs are timed."""

    def __init__(self, interpreter: Interpreter, watch: _Stopwatch) -> None:
        self._interpreter, self._watch = interpreter, watch
        self.inputs, self.outputs = interpreter.inputs, interpreter.outputs

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Invoke once."""
        watch, started = self._watch, time.monotonic()
        outputs = self._interpreter.run(inputs)
        watch.ended_s = time.monotonic()
        if not watch.runs:
            watch.invoked_s = started
        watch.runs += 1
        watch.spent_s += watch.ended_s - started
        return outputs


class Lane:
    """Answers one request at a time; not for two threads at once.

    A release without a pipeline takes and gives the model's own tensors. With one, `infer` takes a batch of what the
    pipeline has after image decoding (`input`), and gives `scores` and `labels`, so that a release that is quantised
    otherwise does not change what callers send. A pipeline that is more than a line around one model gives its answers
    by their names: numbers as they are, all else as text in JSON.
    """

    def __init__(self, spec: PipelineSpec, interpreters: Interpreter | Mapping[str, Interpreter]) -> None:
        """Join them. Raises PipelineError or InvalidInputError when they do not belong together."""
        models = interpreters if isinstance(interpreters, Mapping) else {OWN_MODEL: interpreters}
        self._watch = _Stopwatch()
        timed = {name: _Timed(each, self._watch) for name, each in models.items()}
        self._own, own = timed[OWN_MODEL], models[OWN_MODEL]
        self._pipeline = CompiledPipeline(spec, timed)
        self.labels, self.is_line = self._pipeline.labels, self._pipeline.is_line
        self.takes_images = takes_images(spec)
        self._raw = spec == MODEL_ONLY
        sizes = {each.shape[0] for each in own.inputs if each.shape}
        self._fixed = sizes.pop() if len(sizes) == 1 else _FREE
        self.inputs = own.inputs if self._raw else (_pipeline_input(spec, own.inputs),)
        self.outputs = own.outputs if self._raw else _pipeline_outputs(self._pipeline, own.outputs)

    def run(self, request: Request) -> Outcome:
        """Answer.

        Raises:
            PipelineError: the request does not fit this model.
            ModelFailedError: the request fits, and the model broke.
        """
        self._watch.begin()
        started = time.thread_time()
        try:
            outputs, items = self._answer(request)
            return self._outcome(outputs, items, compute_s=time.thread_time() - started)
        except LitefleetError:
            raise
        except Exception as exc:  # a worker must survive whatever a model's runtime raises; the caller hears of it
            raise ModelFailedError(f"{type(exc).__name__}: {exc}") from exc

    def _answer(self, request: Request) -> tuple[tuple[NamedTensor, ...], tuple[Answered, ...]]:
        if isinstance(request, ClassifyRequest):
            answered = self._answer_items(request)
            good = [each for each in answered if isinstance(each, Answer)]
            return answer_tensors(good, is_line=self._pipeline.is_line, labels=self.labels), answered
        if self._raw:
            return self._raw_outputs(request), ()
        return self._pipeline_outputs(request), ()

    def _answer_items(self, request: ClassifyRequest) -> tuple[Answered, ...]:
        if not request.others:
            return (self._pipeline.from_image(request.encoded),)
        answered = tuple(self._pipeline.answer_many(request.items))
        failures = [(number, each) for number, each in enumerate(answered) if isinstance(each, PipelineError)]
        if not failures:
            return answered
        number, failure = failures[0]
        # Where all broke the model, it is the model: whoever else can answer is to be asked.
        is_broken = len(failures) == len(answered) and any(isinstance(each, ModelFailedError) for _, each in failures)
        if is_broken or not request.apart:
            raise type(failure)(f"item {number}: {failure}")
        return answered

    def _raw_outputs(self, request: InferRequest) -> tuple[NamedTensor, ...]:
        arrays = _bind(request.inputs, self.inputs)
        batches = _batches(arrays, self._fixed)
        results = [self._own.run(batch) for batch in batches]
        joined = results[0] if len(results) == 1 else [np.concatenate(parts) for parts in zip(*results, strict=True)]
        return tuple(NamedTensor(name=spec.name, array=array) for spec, array in zip(self.outputs, joined, strict=True))

    def _pipeline_outputs(self, request: InferRequest) -> tuple[NamedTensor, ...]:
        if len(request.inputs) != 1:
            raise PipelineError(f"this model takes one input, got {len(request.inputs)}")
        items = request.inputs[0].array
        if items.dtype.kind not in _NUMBERS or items.ndim == 0:
            raise PipelineError("this model takes a batch of numbers")
        if not self._pipeline.is_line:
            return answer_tensors([self._pipeline.from_array(item) for item in items], is_line=False, labels=())
        scores = self._pipeline.scores(items)
        if not np.isfinite(scores).all():
            raise ModelFailedError("the model answered NaN or infinity")
        return scores_and_labels(scores, self.labels)

    def _outcome(self, outputs: tuple[NamedTensor, ...], items: tuple[Answered, ...], *, compute_s: float) -> Outcome:
        first = next((each for each in items if isinstance(each, Answer)), None)
        top, confidence = best(outputs, self.labels) if self._pipeline.is_line or first is None else told_best(first)
        return Outcome(
            outputs=outputs,
            labels=first.labels if first is not None else (),
            items=items,
            top=top,
            confidence=confidence,
            values=first_items(outputs),
            invoke_ms=self._watch.spent_s * 1000,
            compute_ms=compute_s * 1000,
            moments=self._watch.moments(),
        )


def best(outputs: tuple[NamedTensor, ...], names: tuple[str, ...]) -> tuple[str, float | None]:
    """Return the first item's top answer and its score, where the model is a classifier: one output `(N, K)`, K ≥ 2."""
    numbers = _numbers(outputs)
    if len(numbers) != 1 or numbers[0].ndim != _MATRIX or numbers[0].shape[1] < _MATRIX:
        return "", None
    scores = numbers[0][0]
    index = int(scores.argmax())
    highest = float(scores[index])
    is_share = 0.0 <= highest <= 1.0 and scores.dtype.kind == "f" and bool(scores.min() >= 0.0)
    return names[index] if names else str(index), highest if is_share else None


def first_items(outputs: tuple[NamedTensor, ...]) -> Tensor:
    """Return all numbers that were said of the first item, flat, as float64."""
    flat = [array[0].ravel() if array.ndim else array.ravel() for array in _numbers(outputs)]
    if len(flat) == 1:
        return flat[0].astype(np.float64)
    return np.concatenate(flat).astype(np.float64) if flat else np.empty(0)


def _numbers(outputs: tuple[NamedTensor, ...]) -> list[Tensor]:
    return [output.array for output in outputs if output.array.dtype.kind in _NUMBERS]


def _bind(given: tuple[NamedTensor, ...], wanted: tuple[TensorSpec, ...]) -> list[Tensor]:
    """Put tensors in the model's order. With a single input any name will do: converters change names at will."""
    if len(given) != len(wanted):
        names = ", ".join(spec.name for spec in wanted)
        raise PipelineError(f"this model takes {len(wanted)} inputs ({names}), got {len(given)}")
    if len(wanted) == 1:
        return [given[0].array]
    by_name = {tensor.name: tensor.array for tensor in given}
    for spec in wanted:
        if spec.name not in by_name:
            raise PipelineError(f"input {spec.name!r} is missing")
    return [by_name[spec.name] for spec in wanted]


def _batches(arrays: list[Tensor], size: int) -> list[list[Tensor]]:
    """Cut a batch into the pieces that a model with a fixed batch of this size takes."""
    if size <= 0 or not arrays or arrays[0].shape[:1] <= (size,):
        return [arrays]
    rows = {array.shape[0] for array in arrays if array.ndim}
    count = rows.pop() if len(rows) == 1 else 0
    if count <= size or count % size:
        return [arrays]
    return [[array[start : start + size] for array in arrays] for start in range(0, count, size)]


def _pipeline_input(spec: PipelineSpec, inputs: tuple[TensorSpec, ...]) -> TensorSpec:
    decode = next((step for step in spec.steps if isinstance(step, DecodeImage)), None)
    normalised = any(isinstance(step, Normalise) for step in spec.steps)
    dtype = "uint8" if decode else "float32" if normalised else inputs[0].dtype
    shape = (_FREE, *inputs[0].shape[1:])
    if any(isinstance(step, ResizeImage) for step in spec.steps):
        shape = (_FREE, _FREE, _FREE, 1 if decode and decode.colour is ColourMode.GREY else inputs[0].shape[-1])
    return TensorSpec(name="input", dtype=dtype, shape=shape)


def _pipeline_outputs(pipeline: CompiledPipeline, outputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    if not pipeline.is_line:
        return tuple(TensorSpec(name=name, dtype="object", shape=(_FREE,)) for name in pipeline.answer_ids)
    sizes = outputs[0].shape[1:]
    count = _FREE if _FREE in sizes else int(np.prod(sizes))
    scores = TensorSpec(name="scores", dtype="float32", shape=(_FREE, count))
    return (scores, TensorSpec(name="labels", dtype="object", shape=(_FREE,))) if pipeline.labels else (scores,)
