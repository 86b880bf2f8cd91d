"""What travels through a pipeline, and what it says of an item in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import PipelineError
from shared.runtime.frames import Decoded, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Tensor = NDArray[Any]
    Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """One answer of a classifier."""

    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Something that a detector has found, in pixels or shares of the image as it was sent."""

    label: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """All that one class covers of an image."""

    label: str
    share: float
    """Of the image, 0..1."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom around all of it, in pixels of the image as it was sent."""
    runs: tuple[int, ...]
    """Start and length, start and length … in the mask, row by row; empty where not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """What covers which part of an image, the largest first."""

    height: int
    """Of the mask that the runs are of."""
    width: int
    areas: tuple[Area, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fanned:
    """Several answers by the ids of their steps; an error in the place of one that failed."""

    values: Mapping[str, Value | PipelineError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """An object of a `json` step's own making."""

    values: Mapping[str, Value]
    digits: int | None


class Outputs(tuple["Tensor", ...]):
    """The chosen outputs of a model for one item."""

    __slots__ = ()


if TYPE_CHECKING:
    Image = Picture | Decoded
    Value = Tensor | tuple[LabelScore, ...] | tuple[Box, ...] | Areas | Fanned | Shaped | Outputs | Image | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a pipeline says of one item."""

    scores: NDArray[np.float32]
    """`(K,)`: the scores behind the first answer, flat; empty where there are none, as behind boxes."""
    labels: tuple[LabelScore, ...]
    """Best first; empty where the first answer is no labels."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """All answers by the ids of their steps."""


def to_json(value: Value | PipelineError, digits: int | None = None) -> Json:
    """Return what JSON can say of a value; numbers rounded to `digits` decimals."""
    match value:
        case PipelineError():
            return {"error": str(value), "reason": value.reason}
        case np.ndarray():
            # In 64 bits: a rounded float32 has other decimals again when it is written as a double.
            is_rounded = digits is not None and value.dtype.kind == "f"
            numbers: Json = (np.round(value.astype(np.float64), digits or 0) if is_rounded else value).tolist()
            return numbers
        case Areas():
            areas: list[Json] = [_area(each, digits) for each in value.areas]
            return {"height": value.height, "width": value.width, "areas": areas}
        case Fanned():
            return {name: to_json(each, digits) for name, each in value.values.items()}
        case Shaped():
            own = digits if value.digits is None else value.digits
            return {name: to_json(each, own) for name, each in value.values.items()}
        case bytes() | Decoded():
            raise PipelineError("an encoded image or sound is no answer")
        case Picture():
            return to_json(value.pixels, digits)
        case _:
            return [_entry(each, digits) for each in value]


def _entry(value: LabelScore | Box | Tensor, digits: int | None) -> Json:
    if isinstance(value, LabelScore):
        return {"label": value.label, "score": _rounded(value.score, digits)}
    if isinstance(value, Box):
        corners: list[Json] = [_rounded(each, digits) for each in (value.left, value.top, value.right, value.bottom)]
        return {"label": value.label, "score": _rounded(value.score, digits), "box": corners}
    return to_json(value, digits)


def _area(area: Area, digits: int | None) -> Json:
    box: list[Json] = [_rounded(each, digits) for each in area.box]
    return {"label": area.label, "share": _rounded(area.share, digits), "box": box, "runs": list(area.runs)}


def _rounded(number: float, digits: int | None) -> float:
    return number if digits is None else round(number, digits)
