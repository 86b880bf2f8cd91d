"""A declared pipeline made runnable: the very same code judges an artifact in conversion and answers on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import PipelineError
from shared.pipeline import OWN_MODEL, bend_of, check
from shared.pipeline_graph import Graph, Kind
from shared.runtime import ops
from shared.runtime.compiling import Compiler
from shared.runtime.frames import Frame, Picture
from shared.runtime.item import Item
from shared.runtime.line import Line
from shared.runtime.values import Answer, LabelScore, Outputs
from shared.steps import DecodeAudio, DecodeImage, TopLabels, given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.manifest import TensorSpec
    from shared.pipeline import PipelineSpec
    from shared.pipeline_graph import Node
    from shared.runtime.image_ops import Pixels
    from shared.runtime.interpreter import Interpreter
    from shared.runtime.values import Value

    Tensor = NDArray[Any]

__all__ = ["Answer", "CompiledPipeline", "LabelScore", "top_answers"]

_NO_SCORES = np.empty(0, np.float32)
_SCORED = frozenset({Kind.TENSOR, Kind.SCORES})
_IMAGE_AXES = 3


class CompiledPipeline:
    """A PipelineSpec over its loaded models. As their interpreters, not safe for two threads at once.

    A straight line from a request to one model's scores has a way of its own, which is short and runs batches; every
    other graph is computed item by item, each step of it at most once, and only if an answer needs it.
    """

    def __init__(self, spec: PipelineSpec, interpreters: Mapping[str, Interpreter] | Interpreter) -> None:
        """Check that spec and models belong together; a model by itself is the release's own.

        Raises:
            InvalidInputError: the spec itself is wrong, or names models that are not there.
            PipelineError: it does not fit a model: labels and outputs, inputs and what they are fed.
        """
        models = interpreters if isinstance(interpreters, Mapping) else {OWN_MODEL: interpreters}
        graph = check(spec, [name for name in models if name != OWN_MODEL])
        self._graph, self._spec = graph, spec
        self._bent = bend_of(graph)
        """Why it is no straight line; empty when it is."""
        self._line = None if self._bent else Line(graph, models[OWN_MODEL])
        self._steps = () if self._line else Compiler(graph, spec.labels, models).compile()
        self._decoders = [
            place for place, node in enumerate(graph.nodes) if isinstance(node.step, DecodeImage | DecodeAudio)
        ]
        last = graph.nodes[-1]
        self._top = last.step if isinstance(last.step, TopLabels) else None
        self._names = given(self._top.labels, spec.labels) if self._top is not None else spec.labels
        self._answer_id = last.id
        if self._line is not None:
            _check_labels(self._names, models[OWN_MODEL].outputs[self._line.output].shape[1:])

    @property
    def graph(self) -> Graph:
        """How its steps hang together."""
        return self._graph

    @property
    def is_line(self) -> bool:
        """Whether it is a straight line from a request to one model's scores."""
        return self._line is not None

    @property
    def answer_ids(self) -> tuple[str, ...]:
        """Names of its answers."""
        return tuple(self._graph.nodes[place].id for place in self._graph.answers)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores."""
        return self._names

    def answer(self, item: bytes | Tensor) -> Answer:
        """Answer for one item, encoded or not. Raises PipelineError, as from_image and from_array do."""
        return self.from_image(item) if isinstance(item, bytes) else self.from_array(item)

    def answer_many(self, items: Sequence[bytes | Tensor]) -> list[Answer | PipelineError]:
        """Answer for several items; one that cannot be answered for has its error in its place."""
        answers: list[Answer | PipelineError] = []
        for item in items:
            try:
                answers.append(self.answer(item))
            except PipelineError as exc:
                answers.append(exc)
        return answers

    def from_image(self, encoded: bytes) -> Answer:
        """Answer for an encoded image or sound.

        Raises:
            PipelineError: none that can be read, or the pipeline takes none.
        """
        if self._line is not None:
            return self._from_line(self._line.decode(encoded))
        if self._graph.request is not Kind.BYTES:
            raise PipelineError("this pipeline takes tensors, not images: it has no decode_image step")
        return self._from_item(Item(self._steps, encoded))

    def from_array(self, item: Tensor) -> Answer:
        """Answer for one item: what decoding gives or, where nothing is decoded, what the first step takes.

        Raises:
            PipelineError: wrong shape or dtype.
            ModelFailedError: an answer that is not a finite number.
        """
        if self._line is not None:
            return self._from_line(item)
        if self._graph.request is not Kind.BYTES:
            # An item of a batch (N,) is a number by itself to numpy.
            return self._from_item(Item(self._steps, np.asarray(item)))
        if len(self._decoders) > 1:
            raise PipelineError("this pipeline decodes what it takes in several ways: send it encoded")
        sent = Item(self._steps, b"")
        sent.put(self._decoders[0], _as_sent(item, self._graph.nodes[self._decoders[0]]))
        return self._from_item(sent)

    def scores(self, items: Tensor) -> NDArray[np.float32]:
        """Return `(N, K)` scores of `(N, …)` raw items, NaN and all, for evaluation.

        Raises:
            PipelineError: no items, wrong shape or dtype, or a pipeline that answers otherwise than by scores.
        """
        if len(items) == 0:
            raise PipelineError("no items to score")
        if self._line is not None:
            return self._line.scores(items)
        rows = [self.from_array(item).scores for item in items]
        if len({row.shape for row in rows}) > 1 or not rows[0].size:
            raise PipelineError(f"this pipeline answers by no scores that could be compared: {self._bent}")
        return np.stack(rows)

    @property
    def model_input(self) -> TensorSpec:
        """What the model is fed, batch axis included. Raises PipelineError when that is not one tensor."""
        return self._straight().model_input

    def prepare(self, item: Tensor) -> Tensor:
        """Return what the model is fed for one raw item, without the batch axis. Raises PipelineError."""
        return self._straight().prepare(item)

    def finish(self, output: Tensor) -> NDArray[np.float32]:
        """Return `(N, K)` scores of the model's chosen output for N items, `(N, K)` raw. Raises PipelineError."""
        return self._straight().finish(output)

    def _straight(self) -> Line:
        if self._line is None:
            raise PipelineError(
                f"only a straight line from a request to one model's scores can be judged, and {self._bent}: convert "
                "with the steps around the model alone, and give the whole pipeline to the release"
            )
        return self._line

    def _from_line(self, item: Pixels) -> Answer:
        scores = self._straight().one(item)
        ops.require_finite(scores)
        if self._top is None:
            return Answer(scores=scores, labels=(), values={self._answer_id: scores})
        labels = ops.top_labels(scores, self._names, self._top.count)
        return Answer(scores=scores, labels=labels, values={self._answer_id: labels})

    def _from_item(self, item: Item) -> Answer:
        values: dict[str, Value] = {}
        # A model may well answer infinity: that is looked for, and told as an error instead of a warning.
        with np.errstate(all="ignore"):
            for place in self._graph.answers:
                values[self._graph.nodes[place].id] = _told(item.at(place))
            first = self._graph.answers[0]
            scores = self._scores_behind(item, first)
        value = values[self._graph.nodes[first].id]
        labels = value if isinstance(value, tuple) and not isinstance(value, Outputs) else ()
        named = tuple(each for each in labels if isinstance(each, LabelScore))
        return Answer(scores=scores, labels=named, values=values)

    def _scores_behind(self, item: Item, place: int) -> NDArray[np.float32]:
        """Return the scores that an answer was made of; empty where it was made of none, or of many."""
        kind = self._graph.nodes[place].kind
        if kind is Kind.LABELS:
            place = next((self._graph.nodes.index(n) for n in self._graph.lineage(place) if n.kind in _SCORED), place)
        value = item.at(place) if self._graph.nodes[place].kind in _SCORED else None
        if isinstance(value, Outputs):
            value = value[0]
        return value.astype(np.float32, copy=False).ravel() if isinstance(value, np.ndarray) else _NO_SCORES


def top_answers(scores: Tensor) -> NDArray[np.int64]:
    """Return the chosen class of each row of `(N, K)`: the highest or, for K = 1, whether it is over one half."""
    if scores.shape[1] == 1:
        return np.asarray(scores[:, 0] > 0.5, dtype=np.int64)  # noqa: PLR2004 - the middle of a sigmoid
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def _told(value: Value) -> Value:
    """Return a value as an answer: finite, and one tensor where a model has one."""
    if isinstance(value, Outputs) and len(value) == 1:
        value = value[0]
    for each in value if isinstance(value, Outputs) else (value,):
        if isinstance(each, np.ndarray):
            ops.require_finite(each)
    return value


def _as_sent(item: Tensor, decoder: Node) -> Value:
    if isinstance(decoder.step, DecodeAudio):
        return item
    if item.ndim != _IMAGE_AXES:
        raise PipelineError(f"this pipeline takes images (H, W, C), got {item.shape}")
    return Picture(pixels=item, frame=Frame.of(max(item.shape[1], 1), max(item.shape[0], 1)))


def _check_labels(labels: Sequence[str], shape: tuple[int, ...]) -> None:
    # An output of open size can only be compared once there is an answer.
    if not labels or not shape or -1 in shape:
        return
    if len(labels) != int(np.prod(shape)):
        raise PipelineError(f"the pipeline names {len(labels)} labels for {int(np.prod(shape))} outputs")
