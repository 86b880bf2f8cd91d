"""Runs a model item by item and shows what every tensor held, those between operators too."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from converters.failures import SchemeFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

MAX_ITEMS = 256
"""More move neither ranges nor means by anything that shows, and each costs an invocation of every pass."""


class Probe:
    """An interpreter that keeps every tensor. One thread, so that the same items give the same bytes anywhere."""

    def __init__(self, model: bytes, *, keep_all: bool = True) -> None:
        """Load the model. Without `keep_all` only its outputs can be asked for, and it runs faster.

        Raises:
            SchemeFailedError: it takes several inputs, or does not run.
        """
        with warnings.catch_warnings():
            # It warns of the memory that this takes.
            warnings.simplefilter("ignore")
            try:
                self._native = Interpreter(
                    model_content=model, num_threads=1, experimental_preserve_all_tensors=keep_all
                )
                self._native.allocate_tensors()
            except (ValueError, RuntimeError) as exc:
                raise SchemeFailedError(f"the float model does not run: {_first_line(exc)}") from exc
        details = self._native.get_input_details()
        if len(details) != 1:
            raise SchemeFailedError(f"the model takes {len(details)} inputs, and ranges are measured of one")
        self._input = details[0]

    def run(self, item: Tensor) -> None:
        """Invoke on one item, without batch axis; `tensor` tells of it from then on.

        Raises:
            SchemeFailedError: the item is not what the model takes.
        """
        batch = np.ascontiguousarray(item[np.newaxis])
        try:
            if tuple(self._input["shape"]) != batch.shape:
                self._native.resize_tensor_input(self._input["index"], batch.shape)
                self._native.allocate_tensors()
                self._input = self._native.get_input_details()[0]
            self._native.set_tensor(self._input["index"], batch)
            self._native.invoke()
        except (ValueError, RuntimeError) as exc:
            raise SchemeFailedError(f"the model does not take a calibration item: {_first_line(exc)}") from exc

    def tensor(self, index: int) -> Tensor:
        """Return a copy of what a tensor held at the end of the last run."""
        held: Tensor = self._native.get_tensor(index)
        return held


def spread(items: Sequence[Tensor], most: int = MAX_ITEMS) -> Sequence[Tensor]:
    """Return at most `most` items, evenly over all of them: data often lies sorted by class."""
    step = max(1, -(-len(items) // most))
    return items[::step]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
