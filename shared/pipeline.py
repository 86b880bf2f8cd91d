"""PipelineSpec: the declared steps from a request to an answer. No code travels to a device, only this."""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from shared.errors import InvalidInputError


class ColourMode(StrEnum):
    """Pillow's name of what an image is decoded to."""

    GREY = "L"
    RGB = "RGB"


class DecodeImage(msgspec.Struct, frozen=True, kw_only=True, tag="decode_image"):
    """JPEG or PNG bytes → `(H, W, C) uint8`, C = 1 for grey and 3 for RGB."""

    colour: ColourMode = ColourMode.RGB


class ResizeImage(msgspec.Struct, frozen=True, kw_only=True, tag="resize_image"):
    """`(H, W, C) uint8` → `(height, width, C) uint8`, bilinear."""

    height: int
    width: int


class Normalise(msgspec.Struct, frozen=True, kw_only=True, tag="normalise"):
    """Any number → `x * scale + offset` as float32."""

    scale: float = 1.0
    offset: float = 0.0


class RunModel(msgspec.Struct, frozen=True, kw_only=True, tag="run_model"):
    """One item → the model's first output for it; the batch axis is added and removed here."""


class Softmax(msgspec.Struct, frozen=True, kw_only=True, tag="softmax"):
    """Logits `(K,)` → probabilities `(K,)`."""


class TopLabels(msgspec.Struct, frozen=True, kw_only=True, tag="top_labels"):
    """Scores `(K,)` → the `count` best labels with their scores, best first."""

    count: int = 3


Step = DecodeImage | ResizeImage | Normalise | RunModel | Softmax | TopLabels

_MAX_SIDE = 8192
_ORDER = {DecodeImage: 0, ResizeImage: 1, Normalise: 2, RunModel: 3, Softmax: 4, TopLabels: 5}


class PipelineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A straight line of steps with exactly one `run_model`; `labels[k]` names output k."""

    steps: tuple[Step, ...]
    labels: tuple[str, ...] = ()


def check(spec: PipelineSpec) -> None:
    """Refuse a pipeline that could not run: steps out of order or repeated, no model, sizes out of range.

    Raises:
        InvalidInputError: names the step.
    """
    order = [_ORDER[type(step)] for step in spec.steps]
    if order != sorted(set(order)):
        raise InvalidInputError(
            field="pipeline.steps",
            problem="steps repeat or stand out of order",
            remedy="each at most once: decode_image, resize_image, normalise, run_model, softmax, top_labels",
        )
    if _ORDER[RunModel] not in order:
        raise InvalidInputError(field="pipeline.steps", problem="no run_model step", remedy="add {type: run_model}")
    for index, step in enumerate(spec.steps):
        field = f"pipeline.steps[{index}]"
        if isinstance(step, ResizeImage) and not (1 <= step.height <= _MAX_SIDE and 1 <= step.width <= _MAX_SIDE):
            raise InvalidInputError(field=field, problem=f"height and width must be 1..{_MAX_SIDE}")
        if isinstance(step, Normalise):
            _check_normalise(step, field)
        if isinstance(step, TopLabels) and step.count < 1:
            raise InvalidInputError(field=field, problem="count must be at least 1")
        if isinstance(step, TopLabels) and not spec.labels:
            raise InvalidInputError(field="pipeline.labels", problem="top_labels needs labels")


def _check_normalise(step: Normalise, field: str) -> None:
    if not (math.isfinite(step.scale) and math.isfinite(step.offset)):
        raise InvalidInputError(field=field, problem="scale and offset must be finite")
    # Every item would be the same to the model: a slip such as 1 // 255, which no accuracy gate sees, since source and
    # artifact then guess alike.
    if step.scale == 0:
        raise InvalidInputError(field=field, problem="scale is 0", remedy="to bring bytes to 0..1: 0.00392156862745098")


def takes_images(spec: PipelineSpec) -> bool:
    """Whether the pipeline starts from encoded image bytes."""
    return isinstance(spec.steps[0], DecodeImage)


MODEL_ONLY = PipelineSpec(steps=(RunModel(),))
"""The pipeline of a release that declares none: tensors in, tensors out."""
