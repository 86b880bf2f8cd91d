"""One item on its way through a pipeline's graph: each step is computed at most once, and only when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.pipeline_graph import REQUEST_PLACE
from shared.runtime.frames import Decoded, Frame, Picture
from shared.runtime.values import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from shared.pipeline_graph import Source
    from shared.runtime.values import Value

    Tensor = NDArray[Any]
    Compute = Callable[["Item"], Value]

_IMAGE_AXES = 3


class Item:
    """An item, its steps' values by their places. Not for two threads at once."""

    __slots__ = ("_steps", "_values", "request")

    def __init__(self, steps: Sequence[Compute], request: Value) -> None:
        self._steps, self.request = steps, request
        self._values: list[Value | None] = [None] * len(steps)

    def at(self, place: int) -> Value:
        """Return what a step gives. Raises PipelineError when it, or one before it, cannot."""
        if place == REQUEST_PLACE:
            return self.request
        value = self._values[place]
        if value is None:
            value = self._values[place] = self._steps[place](self)
        return value

    def put(self, place: int, value: Value) -> None:
        """Take a step for computed."""
        self._values[place] = value

    def value(self, source: Source) -> Value:
        """Return what comes from a source."""
        value = self.at(source.place)
        return value[source.output] if isinstance(value, Outputs) else value

    def frame(self, place: int, fed: tuple[int, ...]) -> Frame:
        """Return the frame of the image at a place; without one, of a tensor of the shape `(height, width, …)`."""
        value = self.at(place)
        if isinstance(value, Picture | Decoded):
            return value.frame
        shape = getattr(value, "shape", ())
        height, width = shape[:2] if len(shape) == _IMAGE_AXES else (*fed, 1, 1)[:2]
        return Frame.of(max(width, 1), max(height, 1))
