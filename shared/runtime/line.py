"""A pipeline that is one straight line around one model: run in batches, and judged in conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import PipelineError
from shared.runtime import image_ops, ops
from shared.runtime.audio_ops import decode_audio
from shared.runtime.compiling import draft_size, tensor_op
from shared.runtime.model_call import ModelCall
from shared.steps import (
    Colour,
    CropImage,
    DecodeAudio,
    DecodeImage,
    Dequantise,
    ResizeImage,
    RunModel,
    Sigmoid,
    Softmax,
    TensorMap,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from shared.manifest import TensorSpec
    from shared.pipeline_graph import Graph, Node
    from shared.runtime.image_ops import Pixels
    from shared.runtime.interpreter import Interpreter
    from shared.steps import Step

    Tensor = NDArray[Any]
    # Tensors, but for a resize right behind the decoder.
    Op = Callable[[Any], Tensor]

_BATCH = 32
"""Items in one invocation where the batch is free: a dense layer runs 3 times faster at 16, a convolution no faster."""
_AFTER = (Dequantise, Softmax, Sigmoid)


class Line:
    """A straight line over its model. As its interpreter, not safe for two threads at once."""

    def __init__(self, graph: Graph, interpreter: Interpreter) -> None:
        """Join them. Raises PipelineError when they do not fit."""
        self._interpreter = interpreter
        at = next(place for place, node in enumerate(graph.nodes) if isinstance(node.step, RunModel))
        # A model with several inputs is fed by nobody who goes through a pipeline, and may still be served raw.
        calls = {at: _call(graph.nodes[at], interpreter)} if len(interpreter.inputs) == 1 else {}
        self.output = calls[at].places[0] if calls else 0
        """Place of the chosen output among the model's."""
        first = graph.nodes[0].step
        self._decode = _decoder(first, draft_size(graph, 0))
        start = 0 if self._decode is None else 1
        self._before = [_before(graph, place, calls) for place in range(start, at)]
        after = (place for place in range(at + 1, len(graph.nodes)) if isinstance(graph.nodes[place].step, _AFTER))
        self._after = [tensor_op(graph, place, calls) for place in after]

    @property
    def model_input(self) -> TensorSpec:
        """What the model is fed, batch axis included. Raises PipelineError when that is not one tensor."""
        if len(self._interpreter.inputs) != 1:
            raise PipelineError(f"a pipeline feeds one input, and this model takes {len(self._interpreter.inputs)}")
        return self._interpreter.inputs[0]

    def decode(self, encoded: bytes) -> Pixels:
        """Return what `prepare` takes for an encoded item. Raises PipelineError."""
        if self._decode is None:
            raise PipelineError("this pipeline takes tensors, not images: it has no decode_image step")
        return self._decode(encoded)

    def one(self, item: Pixels) -> NDArray[np.float32]:
        """Return the scores `(K,)` of one item. Raises PipelineError."""
        row: NDArray[np.float32] = self._run(self.prepare(item)[np.newaxis])[0]
        return row

    def scores(self, items: Tensor) -> NDArray[np.float32]:
        """Return `(N, K)` scores of `(N, …)` items. Raises PipelineError."""
        rows = [self._run(np.stack([self.prepare(item) for item in batch])) for batch in self._batches(items)]
        return np.concatenate(rows)

    def prepare(self, item: Pixels) -> Tensor:
        """Return what the model is fed for one item, without the batch axis. Raises PipelineError."""
        fed: Any = item
        # What is too large for a float32 becomes infinite, and is refused below as what was infinite before.
        with np.errstate(all="ignore"):
            for op in self._before:
                fed = op(fed)
            made = ops.as_dtype(fed, np.dtype(self.model_input.dtype))
        # The model would answer NaN, and be blamed: enough of such requests would revert a good release.
        if isinstance(item, np.ndarray) and item.dtype != np.uint8 and not np.isfinite(made).all():
            raise PipelineError("the item holds NaN, infinity or numbers beyond float32")
        return made

    def finish(self, output: Tensor) -> NDArray[np.float32]:
        """Return `(N, K)` scores of the chosen output for N items, `(N, K)` raw."""
        # A model may well answer infinity: what that means is for the callers to say, not for a warning.
        with np.errstate(all="ignore"):
            scores = output
            for op in self._after:
                scores = op(scores)
            return np.asarray(scores, np.float32)

    def _run(self, batch: Tensor) -> NDArray[np.float32]:
        output = self._interpreter.run([batch])[self.output]
        return self.finish(output.reshape(len(batch), -1))

    def _batches(self, items: Tensor) -> Iterator[Tensor]:
        # Where the batch is fixed, a larger one would cost the interpreter a reallocation and then run item by item.
        size = _BATCH if self.model_input.shape[:1] == (-1,) else 1
        return (items[start : start + size] for start in range(0, len(items), size))


def _call(node: Node, interpreter: Interpreter) -> ModelCall:
    if not isinstance(node.step, RunModel):
        raise PipelineError(f"step {node.id} runs no model")
    return ModelCall(node.step, interpreter, 1)


def _decoder(step: Step, at_least: image_ops.AtLeast | None) -> Callable[[bytes], Pixels] | None:
    match step:
        case DecodeImage() if at_least is not None:
            return lambda encoded: image_ops.open_image(encoded, step, at_least).image
        case DecodeImage():
            return lambda encoded: image_ops.decode_image(encoded, step, None).pixels
        case DecodeAudio():
            return lambda encoded: decode_audio(encoded, step)
        case _:
            return None


def _before(graph: Graph, place: int, calls: Mapping[int, ModelCall]) -> Op:
    match graph.nodes[place].step:
        case ResizeImage() as step:
            return lambda item: image_ops.resize_image(item, step)
        case CropImage() as part:
            return lambda item: image_ops.crop_image(item, part).pixels
        case Colour() as colour:
            return lambda item: image_ops.change_colour(item, colour.to)
        case TensorMap() as mapping:
            return lambda item: ops.tensor_map([item], mapping)
        case _:
            return tensor_op(graph, place, calls)
