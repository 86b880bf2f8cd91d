"""Each step of a pipeline's graph as a function on an item, its constants made once."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shared.errors import ModelFailedError, PipelineError
from shared.pipeline import OWN_MODEL, sample_rate_hz
from shared.pipeline_graph import REQUEST_PLACE
from shared.runtime import audio_ops, image_ops, mask_ops, ops
from shared.runtime.box_ops import BoxFinder
from shared.runtime.branching import LAZY, lazy
from shared.runtime.frames import Decoded, Frame, Picture
from shared.runtime.model_call import ModelCall
from shared.runtime.values import Box, LabelScore, Shaped
from shared.steps import (
    Cascade,
    Colour,
    CropImage,
    DecodeAudio,
    DecodeImage,
    Dequantise,
    DetectBoxes,
    Ensemble,
    FrameAudio,
    Json,
    Normalise,
    Quantise,
    ResizeImage,
    RunModel,
    Segment,
    Sigmoid,
    Softmax,
    TensorMap,
    Threshold,
    TopLabels,
    given,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from shared.pipeline_graph import Graph, Node
    from shared.runtime.interpreter import Interpreter
    from shared.runtime.item import Compute
    from shared.runtime.values import Value

    Tensor = NDArray[Any]
    Op = Callable[[Sequence[Value]], Value]

_KEEP_SHAPE = (TopLabels, Softmax, Sigmoid, Dequantise, Ensemble, Cascade)
_NUMPY_ERRORS = (ValueError, TypeError, IndexError, OverflowError)


class Compiler:
    """Makes the functions of one graph over its models."""

    def __init__(self, graph: Graph, labels: tuple[str, ...], interpreters: Mapping[str, Interpreter]) -> None:
        """Join them. Raises PipelineError when a step and its model do not fit."""
        self._graph, self._labels = graph, labels
        self._calls: dict[int, ModelCall] = {}
        for place, node in enumerate(graph.nodes):
            if isinstance(node.step, RunModel):
                interpreter = interpreters[given(node.step.model, OWN_MODEL)]
                self._calls[place] = ModelCall(node.step, interpreter, len(node.sources))
        self._after_model = _after_models(graph)
        for place, node in enumerate(graph.nodes):
            if isinstance(node.step, TopLabels):
                self._check_labels(place, len(given(node.step.labels, labels)))

    def _check_labels(self, place: int, count: int) -> None:
        """Refuse another number of labels than of scores, where that is known before there is an answer."""
        while isinstance(self._graph.nodes[place].step, _KEEP_SHAPE):
            source = self._graph.nodes[place].sources[0]
            place = source.place
            if place in self._calls:
                sizes = self._calls[place].outputs[source.output].shape[1:]
                scores = math.prod(sizes)
                if sizes and -1 not in sizes and scores != count:
                    raise PipelineError(f"the pipeline names {count} labels for {scores} outputs")
            if place == REQUEST_PLACE:
                return

    def compile(self) -> tuple[Compute, ...]:
        """Return each step's function, in order."""
        return tuple(self._compute(place, node) for place, node in enumerate(self._graph.nodes))

    def _compute(self, place: int, node: Node) -> Compute:
        if isinstance(node.step, LAZY):
            names = tuple(self._graph.nodes[each.place].id if each.place >= 0 else "request" for each in node.sources)
            return lazy(node.step, node.sources, names, self._labels)
        sources, guarded = node.sources, partial(_guarded, is_models_fault=place in self._after_model)
        if isinstance(node.step, DetectBoxes | Segment):
            seen, fed, find = self._picture_place(place), self._fed_shape(place), self._finder(node.step)
            return lambda item: guarded(find, [_tensor(item.value(each)) for each in sources], item.frame(seen, fed))
        op = self._op(place, node)
        if len(sources) == 1:
            (only,) = sources
            return lambda item: guarded(op, [item.value(only)])
        return lambda item: guarded(op, [item.value(each) for each in sources])

    def _op(self, place: int, node: Node) -> Op:
        """Return what a step makes of its values."""
        match node.step:
            case DecodeImage() as picture:
                at_least = draft_size(self._graph, place)
                # Where nothing but resizing follows, an array would only be made into an image again.
                decode = image_ops.decode_image if at_least is None else image_ops.open_image
                return lambda values: decode(_encoded(values[0]), picture, at_least)
            case DecodeAudio() as sound:
                return lambda values: audio_ops.decode_audio(_encoded(values[0]), sound)
            case ResizeImage() | CropImage() | Colour() as change:
                return lambda values: picture_op(change, values[0])
            case RunModel():
                call = self._calls[place]
                return lambda values: call.run([_tensor(value) for value in values])
            case Ensemble() as joining:
                return lambda values: ops.ensemble([_tensor(value) for value in values], joining)
            case TensorMap() as mapping:
                return lambda values: ops.tensor_map([_tensor(value) for value in values], mapping)
            case TopLabels() as top:
                names = given(top.labels, self._labels)
                return lambda values: _top_labels(_tensor(values[0]), names, top.count)
            case Threshold() as limit:
                return lambda values: _threshold(values[0], limit)
            case Json() as shape:
                return lambda values: Shaped(values=dict(zip(shape.keys, values, strict=True)), digits=shape.digits)
            case _:
                op = tensor_op(self._graph, place, self._calls)
                return lambda values: op(_tensor(values[0]))

    def _finder(self, step: DetectBoxes | Segment) -> Callable[..., Value]:
        names = given(step.labels, self._labels)
        if isinstance(step, DetectBoxes):
            return BoxFinder(step, names).find
        return lambda values, frame: mask_ops.segment(values[0], step, names, frame)

    def _picture_place(self, place: int) -> int:
        """Return where the image was made that the model behind a step was fed; else what its first source was."""
        while place != REQUEST_PLACE:
            if isinstance(self._graph.nodes[place].step, DecodeImage | ResizeImage | CropImage | Colour):
                return place
            place = self._graph.nodes[place].inherits
        return REQUEST_PLACE

    def _fed_shape(self, place: int) -> tuple[int, ...]:
        """Return height and width of what the model behind a step is fed."""
        for node in self._graph.lineage(place):
            if isinstance(node.step, RunModel):
                return self._calls[self._graph.nodes.index(node)].input_for(0).shape[1:3]
        return ()


def tensor_op(graph: Graph, place: int, calls: Mapping[int, ModelCall]) -> Callable[[Tensor], Tensor]:
    """Return what a step that takes one tensor and gives one makes of it."""
    node = graph.nodes[place]
    match node.step:
        case Normalise():
            return ops.Normaliser(node.step).apply
        case FrameAudio():
            return audio_ops.Framer(node.step, sample_rate_hz(graph, place)).apply
        case Quantise():
            taker, take = next(
                (other, number)
                for other, each in enumerate(graph.nodes)
                for number, source in enumerate(each.sources)
                if source.place == place
            )
            if taker not in calls:
                problem = "quantises for a model of several inputs, of which a straight line feeds one"
                raise PipelineError(f"step {node.id} {problem}: name them in the takes of its run_model")
            spec = calls[taker].input_for(take)
            return lambda item: ops.quantise(item, spec)
        case Dequantise():
            source = node.sources[0]
            if source.place not in calls:
                raise PipelineError(f"step {node.id} must take a model's output itself: others have no scale")
            given_spec = calls[source.place].outputs[source.output]
            return lambda item: ops.dequantise(item, given_spec)
        case Softmax():
            return lambda item: ops.softmax(item.astype(np.float32, copy=False))
        case Sigmoid():
            return lambda item: ops.sigmoid(item.astype(np.float32, copy=False))
        case _:
            raise PipelineError(f"step {node.id} takes no single tensor")


def picture_op(step: ResizeImage | CropImage | Colour, value: Value) -> Picture:
    """Run a step on an image, and keep track of where it lies in the one that was sent."""
    if isinstance(value, Decoded) and isinstance(step, ResizeImage):
        pixels = image_ops.resize_image(value.image, step)
        return Picture(pixels=pixels, frame=image_ops.resized_frame(value.frame, step))
    picture = value if isinstance(value, Picture) else _sent(_tensor(value), step)
    match step:
        case ResizeImage():
            pixels = image_ops.resize_image(picture.pixels, step)
            return Picture(pixels=pixels, frame=image_ops.resized_frame(picture.frame, step))
        case CropImage():
            part = image_ops.crop_image(picture.pixels, step)
            own = part.frame
            return Picture(pixels=part.pixels, frame=picture.frame.cropped(own.left, own.top, own.width, own.height))
        case Colour():
            return Picture(pixels=image_ops.change_colour(picture.pixels, step.to), frame=picture.frame)


def draft_size(graph: Graph, place: int) -> image_ops.AtLeast | None:
    """Return the size below which a decoded image loses detail, where nothing but resizing follows."""
    takers = [node.step for node in graph.nodes if any(each.place == place for each in node.sources)]
    sizes = [step for step in takers if isinstance(step, ResizeImage)]
    if not sizes or len(sizes) < len(takers) or place in graph.answers:
        return None
    return image_ops.AtLeast(height=max(each.height for each in sizes), width=max(each.width for each in sizes))


def _after_models(graph: Graph) -> set[int]:
    """Return the places of steps that work on what a model has said: callers have no part in how they fail."""
    found: set[int] = set()
    for place, node in enumerate(graph.nodes):
        for source in node.sources:
            if source.place in found or (source.place >= 0 and isinstance(graph.nodes[source.place].step, RunModel)):
                found.add(place)
    return found


def _guarded(op: Callable[..., Value], *arguments: object, is_models_fault: bool) -> Value:
    """Call an operation, and say whose fault it is when it fails: its values are computed already."""
    try:
        return op(*arguments)
    except ModelFailedError:
        raise
    except PipelineError as exc:
        if is_models_fault:
            raise ModelFailedError(str(exc)) from exc
        raise
    except _NUMPY_ERRORS as exc:
        problem = f"{type(exc).__name__}: {exc}"
        raise (ModelFailedError if is_models_fault else PipelineError)(problem) from exc


def _tensor(value: Value) -> Tensor:
    if isinstance(value, Picture):
        return value.pixels
    if isinstance(value, np.ndarray):
        return value
    raise PipelineError(f"a tensor is needed, and {type(value).__name__.lower()} came")


def _encoded(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    raise PipelineError("this pipeline takes encoded images or sounds, not tensors")


def _sent(pixels: Tensor, step: ResizeImage | CropImage | Colour) -> Picture:
    image_ops.check_image(pixels, type(step).__name__)
    return Picture(pixels=pixels, frame=Frame.of(pixels.shape[1], pixels.shape[0]))


def _top_labels(scores: Tensor, names: Sequence[str], count: int) -> Value:
    ops.require_finite(scores)
    return ops.top_labels(scores, names, count)


def _threshold(value: Value, step: Threshold) -> Value:
    entries = cast("tuple[LabelScore | Box, ...]", value)
    kept = tuple(each for each in entries if each.score >= step.min_score)
    if not kept and step.otherwise is not None and not any(isinstance(each, Box) for each in entries):
        return (LabelScore(label=step.otherwise, score=0.0),)
    return cast("Value", kept)
