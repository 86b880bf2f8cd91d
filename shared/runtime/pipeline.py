"""A declared pipeline made runnable: the very same code judges an artifact in conversion and answers on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import ModelFailedError, PipelineError
from shared.pipeline import DecodeImage, Normalise, PipelineSpec, ResizeImage, Softmax, TopLabels, check
from shared.runtime import ops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from shared.manifest import TensorSpec
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

_BATCH = 32
"""Items in one invocation where the batch is free: a dense layer runs 3 times faster at 16, a convolution no faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """One answer of a classifier."""

    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a pipeline says of one item."""

    scores: NDArray[np.float32]
    """`(K,)`: the model's first output, flat, after softmax where one is declared."""
    labels: tuple[LabelScore, ...]
    """Best first; empty without a `top_labels` step."""


class CompiledPipeline:
    """A PipelineSpec over a loaded model. As its interpreter, not safe for two threads at once."""

    def __init__(self, spec: PipelineSpec, interpreter: Interpreter) -> None:
        """Check that spec and model belong together.

        Raises:
            InvalidInputError: the spec itself is wrong.
            PipelineError: it names more or fewer labels than the model has outputs.
        """
        check(spec)
        self._interpreter = interpreter
        self._labels = spec.labels
        self._decode = next((step for step in spec.steps if isinstance(step, DecodeImage)), None)
        self._resize = next((step for step in spec.steps if isinstance(step, ResizeImage)), None)
        self._normalise = next((step for step in spec.steps if isinstance(step, Normalise)), None)
        self._softmax = any(isinstance(step, Softmax) for step in spec.steps)
        self._top = next((step for step in spec.steps if isinstance(step, TopLabels)), None)
        _check_labels(spec, interpreter.outputs)

    def from_image(self, encoded: bytes) -> Answer:
        """Answer for JPEG or PNG bytes.

        Raises:
            PipelineError: no readable image, or the pipeline takes none.
        """
        if self._decode is None:
            raise PipelineError("this pipeline takes tensors, not images: it has no decode_image step")
        return self.from_array(ops.decode_image(encoded, self._decode.colour, self._resize))

    def from_array(self, item: Tensor) -> Answer:
        """Answer for one item: what `decode_image` gives or, without images, the model's input without its batch axis.

        Raises:
            PipelineError: wrong shape or dtype.
            ModelFailedError: an answer that is not a finite number.
        """
        scores = self._run(self.prepare(item)[np.newaxis])[0]
        # A NaN would sort to any place, and JSON cannot carry it.
        if not np.isfinite(scores).all():
            raise ModelFailedError("the model answered NaN or infinity")
        return Answer(scores=scores, labels=self._top_labels(scores))

    def scores(self, items: Tensor) -> NDArray[np.float32]:
        """Return `(N, K)` scores of `(N, …)` raw items, NaN and all, for evaluation.

        Raises:
            PipelineError: no items, or wrong shape or dtype.
        """
        if len(items) == 0:
            raise PipelineError("no items to score")
        rows = [self._run(np.stack([self.prepare(item) for item in batch])) for batch in self._batches(items)]
        return np.concatenate(rows)

    def _batches(self, items: Tensor) -> Iterator[Tensor]:
        # Where the batch is fixed, a larger one would cost the interpreter a reallocation and then run item by item.
        size = _BATCH if self.model_input.shape[:1] == (-1,) else 1
        return (items[start : start + size] for start in range(0, len(items), size))

    @property
    def model_input(self) -> TensorSpec:
        """What the model is fed, batch axis included. Raises PipelineError when that is not one tensor."""
        if len(self._interpreter.inputs) != 1:
            raise PipelineError(f"a pipeline feeds one input, and this model takes {len(self._interpreter.inputs)}")
        return self._interpreter.inputs[0]

    def prepare(self, item: Tensor) -> Tensor:
        """Return what the model is fed for one raw item, without the batch axis. Raises PipelineError."""
        if self._resize is not None:
            item = ops.resize_image(item, self._resize)
        # What is too large for a float32 becomes infinite, and is refused below as what was infinite before.
        with np.errstate(over="ignore", invalid="ignore"):
            fed = ops.normalise(item, self._normalise) if self._normalise is not None else item
            fed = _as_dtype(fed, np.dtype(self.model_input.dtype))
        # The model would answer NaN, and be blamed: enough of such requests would revert a good release.
        if item.dtype != np.uint8 and not np.isfinite(fed).all():
            raise PipelineError("the item holds NaN, infinity or numbers beyond float32")
        return fed

    def _run(self, batch: Tensor) -> NDArray[np.float32]:
        return self.finish(self._interpreter.run([batch])[0].reshape(len(batch), -1))

    def finish(self, output: Tensor) -> NDArray[np.float32]:
        """Return `(N, K)` scores of the model's first output for N items, `(N, K)` raw."""
        # A model may well answer infinity: what that means is for the callers to say, not for a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            scores = output.astype(np.float32, copy=False)
            return ops.softmax(scores) if self._softmax else scores

    def _top_labels(self, scores: Tensor) -> tuple[LabelScore, ...]:
        if self._top is None:
            return ()
        # Stable, so that equal scores come in the order of their labels on every device.
        best = np.argsort(-scores, kind="stable")[: self._top.count]
        return tuple(LabelScore(label=self._labels[index], score=float(scores[index])) for index in best)


def top_answers(scores: Tensor) -> NDArray[np.int64]:
    """Return the chosen class of each row of `(N, K)`: the highest or, for K = 1, whether it is over one half."""
    if scores.shape[1] == 1:
        return np.asarray(scores[:, 0] > 0.5, dtype=np.int64)  # noqa: PLR2004 - the middle of a sigmoid
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def _as_dtype(item: Tensor, dtype: np.dtype[Any]) -> Tensor:
    if item.dtype == dtype:
        return item
    # To floats from anything; otherwise only where no value can change, as int8 from uint8 would.
    if item.dtype.kind in "biuf" and (dtype.kind == "f" or np.can_cast(item.dtype, dtype, "safe")):
        return item.astype(dtype)
    raise PipelineError(f"the model takes {dtype.name}, and {item.dtype.name} cannot be turned into it")


def _check_labels(spec: PipelineSpec, outputs: tuple[TensorSpec, ...]) -> None:
    shape = outputs[0].shape[1:]
    # An output of open size can only be compared once there is an answer.
    if not spec.labels or not shape or -1 in shape:
        return
    if len(spec.labels) != int(np.prod(shape)):
        raise PipelineError(f"the pipeline names {len(spec.labels)} labels for {int(np.prod(shape))} outputs")
