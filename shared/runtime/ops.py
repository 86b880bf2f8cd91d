"""The steps that work on tensors, as functions on one item, or on a batch where they work along the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import ModelFailedError, PipelineError
from shared.runtime.values import LabelScore
from shared.steps import EnsembleMethod, Reduction, given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.manifest import TensorSpec
    from shared.steps import Cascade, Ensemble, Normalise, TensorMap

    Tensor = NDArray[Any]

NUMERIC = "biuf"


class Normaliser:
    """`normalise` with its constants brought into the form `x * factor + summand`, once."""

    def __init__(self, step: Normalise) -> None:
        mean, std = np.array(given(step.mean, (0.0,))), np.array(given(step.std, (1.0,)))
        # In 64 bits, rounded once: by numbers too large the factor may become an infinity, which `apply` lets through
        # and whoever feeds the model refuses.
        with np.errstate(over="ignore", invalid="ignore"):
            self._factor = _constant(step.scale / std)
            self._summand = _constant((step.offset - mean) / std)
        self._channels = max(len(mean), len(std))
        self._wide: tuple[int, Tensor, Tensor] = (0, np.empty(0), np.empty(0))
        """The constants of a whole row of an image, and how wide that is."""

    def apply(self, item: Tensor) -> Tensor:
        """Return float32, with one allocation: into a buffer that is there already it takes as long.

        Raises:
            PipelineError: no real numbers, or another number of channels.
        """
        if item.dtype.kind not in NUMERIC:
            raise PipelineError(f"normalise takes numbers, got {item.dtype.name}")
        if self._channels > 1 and item.shape[-1:] != (self._channels,):
            raise PipelineError(f"normalise has {self._channels} channels, and the item has shape {item.shape}")
        if self._channels > 1 and item.ndim > 1 and item.size:
            return self._by_channel(item)
        result: Tensor = np.multiply(item, self._factor, dtype=np.float32, casting="unsafe")
        result += self._summand
        return result

    def _by_channel(self, item: Tensor) -> Tensor:
        """Compute row by row: over three channels at a time numpy would take ten times as long."""
        width = item.shape[-2]
        if self._wide[0] != width:
            ones = np.ones((width, self._channels), np.float32)
            self._wide = (width, (ones * self._factor).ravel(), (ones * self._summand).ravel())
        _, factor, summand = self._wide
        rows = item.reshape(-1, width * self._channels)
        result: Tensor = np.multiply(rows, factor, dtype=np.float32, casting="unsafe")
        result += summand
        return result.reshape(item.shape)


def softmax(logits: Tensor) -> Tensor:
    """Turn logits into probabilities along the last axis."""
    # Less the greatest, which changes nothing but that no power can overflow.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Tensor = powers / powers.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: Tensor) -> Tensor:
    """Turn logits into probabilities, each by itself."""
    # By the power that cannot overflow on either side of zero.
    powers = np.exp(-np.abs(logits))
    result: Tensor = np.where(logits >= 0, 1 / (1 + powers), powers / (1 + powers))
    return result


def quantise(item: Tensor, spec: TensorSpec) -> Tensor:
    """Return the integers that a model input takes for floats; floats for a float input.

    Raises:
        PipelineError: the input takes integers and has no scale, or the item holds NaN.
    """
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f" or item.dtype == dtype:
        return item
    scale, zero_point = scale_of(spec)
    if not np.isfinite(item).all():
        raise PipelineError("the item holds NaN, infinity or numbers beyond float32")
    limits = np.iinfo(dtype)
    # Half to even, as the runtime's own QUANTIZE rounds.
    return np.asarray(np.clip(np.rint(item / scale) + zero_point, limits.min, limits.max), dtype)


def dequantise(output: Tensor, spec: TensorSpec) -> Tensor:
    """Return the numbers that a model output's integers stand for. Raises PipelineError when it has no scale."""
    if output.dtype.kind == "f":
        return output.astype(np.float32, copy=False)
    scale, zero_point = scale_of(spec)
    result: Tensor = (output.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return result


def scale_of(spec: TensorSpec) -> tuple[float, int]:
    """Return scale and zero point of an integer tensor. Raises PipelineError when it has none."""
    scale = given(spec.scale, 0.0)
    if scale <= 0:
        raise PipelineError(f"{spec.name} is {spec.dtype} without a scale: its numbers are no quantised ones")
    return scale, given(spec.zero_point, 0)


def tensor_map(items: Sequence[Tensor], step: TensorMap) -> Tensor:
    """Join and shape anew. Raises PipelineError when the shapes do not allow it."""
    try:
        result: Tensor = items[0] if step.concat is None else np.concatenate(items, axis=step.concat)
        if step.select is not None:
            result = np.take(result, step.select.indices, axis=step.select.axis)
        reduce = given(step.reduce, None)
        if reduce is not None:
            # In 32 bits whatever it was: means of a model's integers are none, and a float16 sum overflows.
            floats = result.astype(np.float32, copy=False)
            how = floats.mean if reduce.by is Reduction.MEAN else floats.max
            result = np.asarray(how(axis=reduce.axis))
        if step.transpose is not None:
            result = result.transpose(step.transpose)
        return result if step.reshape is None else result.reshape(step.reshape)
    except (ValueError, IndexError) as exc:
        shapes = ", ".join(str(item.shape) for item in items)
        raise PipelineError(f"tensor_map cannot take {shapes}: {exc}") from exc


def ensemble(opinions: Sequence[Tensor], step: Ensemble) -> Tensor:
    """Return what several scores of one shape say together. Raises PipelineError when their shapes differ."""
    if len({opinion.shape for opinion in opinions}) > 1:
        shapes = ", ".join(str(opinion.shape) for opinion in opinions)
        raise PipelineError(f"ensemble takes scores of one shape, got {shapes}")
    stacked = np.stack([opinion.astype(np.float32, copy=False) for opinion in opinions])
    match step.method:
        case EnsembleMethod.MEAN:
            return np.asarray(stacked.mean(axis=0))
        case EnsembleMethod.WEIGHTED:
            weights = np.array(step.weights) / sum(step.weights)
            return np.asarray(np.tensordot(weights, stacked, axes=1), np.float32)
        case EnsembleMethod.VOTE:
            flat = stacked.reshape(len(stacked), -1)
            votes = np.bincount(flat.argmax(axis=1), minlength=flat.shape[1])
            return np.asarray(votes / len(flat), np.float32).reshape(stacked.shape[1:])


def is_sure(scores: Tensor, step: Cascade) -> bool:
    """Whether a cascade ends with these scores."""
    flat = scores.ravel()
    best = float(flat.max())
    if step.min_score is not None and not best >= step.min_score:
        return False
    if step.min_margin is None or flat.size == 1:
        return True
    return bool(best - float(np.partition(flat, -2)[-2]) >= step.min_margin)


def top_labels(scores: Tensor, labels: Sequence[str], count: int) -> tuple[LabelScore, ...]:
    """Return the best labels, best first.

    Raises:
        PipelineError: another number of scores than labels.
    """
    flat = scores.ravel()
    if flat.size != len(labels):
        raise PipelineError(f"the pipeline names {len(labels)} labels for {flat.size} outputs")
    # Stable, so that equal scores come in the order of their labels on every device.
    best = np.argsort(-flat, kind="stable")[:count]
    return tuple(LabelScore(label=labels[index], score=float(flat[index])) for index in best)


def require_finite(scores: Tensor) -> None:
    """Refuse an answer that is no number: NaN would sort to any place, and JSON cannot carry it.

    Raises:
        ModelFailedError: it is none.
    """
    if scores.dtype.kind == "f" and not np.isfinite(scores).all():
        raise ModelFailedError("the model answered NaN or infinity")


def as_dtype(item: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """Return the item as a model input takes it. Raises PipelineError where a value could change."""
    if item.dtype == dtype:
        return item
    # To floats from anything; otherwise only where no value can change, as int8 from uint8 would.
    if item.dtype.kind in NUMERIC and (dtype.kind == "f" or np.can_cast(item.dtype, dtype, "safe")):
        return item.astype(dtype)
    hint = ": add a quantise step before run_model" if item.dtype.kind == "f" and dtype.kind in "iu" else ""
    raise PipelineError(f"the model takes {dtype.name}, and {item.dtype.name} cannot be turned into it{hint}")


def _constant(values: Tensor) -> Tensor | np.float32:
    # A scalar broadcasts faster than an array of one.
    rounded = values.astype(np.float32)
    return np.float32(rounded[0]) if rounded.size == 1 else rounded
