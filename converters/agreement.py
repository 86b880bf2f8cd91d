"""Whether a float model answers as its source does: an exit code of 0 proves nothing, only answers do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import ConversionFailedError
from converters.frontend import MAX_DIFFERENCE
from shared.conversion import FailureKind
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from shared.manifest import TensorSpec

    Tensor = NDArray[Any]

_SEED = 20_261_123
_ITEMS = 4
_SOURCE_ITEMS = 32
"""How many items a source answers at once: memory grows with it, and eager frameworks cost most per call."""


def probes(inputs: Sequence[TensorSpec]) -> Iterator[list[Tensor]]:
    """Yield seeded inputs of ever other ranges, since nobody knows here what a model is made for.

    Raises:
        InvalidInputError: the model leaves more than its batch open.
    """
    for spec in inputs:
        if -1 in spec.shape[1:]:
            raise InvalidInputError(
                field="source",
                problem=f"the model leaves the shape of input {spec.name} open: {spec.shape}",
                remedy="fix every size but the batch",
            )
    generator = np.random.default_rng(_SEED)
    batch = max(_ITEMS, *(spec.shape[0] for spec in inputs if spec.shape), _ITEMS)
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (1.0, 2.0)):
        yield [_drawn(generator, spec, batch, low, high) for spec in inputs]


def _drawn(generator: np.random.Generator, spec: TensorSpec, batch: int, low: float, high: float) -> Tensor:
    dtype = np.dtype(spec.dtype)
    shape = (batch, *spec.shape[1:])
    if dtype.kind == "f":
        return generator.uniform(low, high, shape).astype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    # A byte is a pixel or a quantized number; a wider integer counts words or categories, of which there may be few.
    limits = np.iinfo(dtype)
    top = int(limits.max) + 1 if dtype.itemsize == 1 else 2
    return generator.integers(int(limits.min) if dtype.itemsize == 1 else 0, top, shape).astype(dtype)


def in_pieces(
    run: Callable[[Sequence[Tensor]], list[Tensor]], inputs: Sequence[Tensor], *, size: int = _SOURCE_ITEMS
) -> list[Tensor]:
    """Answer many items, `size` at a time."""
    count = len(inputs[0])
    rows = [run([array[start : start + size] for array in inputs]) for start in range(0, count, size)]
    return [np.concatenate(output) for output in zip(*rows, strict=True)]


def all_finite(answers: Sequence[Tensor]) -> bool:
    """Whether no answer is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in answers)


def check(source: Sequence[Tensor], made: Sequence[Tensor]) -> float:
    """Return the largest difference of a float model's answers from its source's, which must be finite.

    Raises:
        ConversionFailedError: they are not the same answers.
    """
    shapes = [array.shape for array in source], [array.shape for array in made]
    if shapes[0] != shapes[1]:
        raise _broken(f"its answers have shapes {shapes[1]}, the source's {shapes[0]}")
    if not all_finite(made):
        raise _broken("it answers NaN or infinity where the source does not")
    pairs = [
        (np.asarray(want, np.float64), np.asarray(got, np.float64)) for want, got in zip(source, made, strict=True)
    ]
    largest = 0.0
    for index, (want, got) in enumerate(pairs):
        difference = float(np.abs(want - got).max(initial=0.0))
        allowed = MAX_DIFFERENCE * max(1.0, float(np.abs(want).max(initial=0.0)))
        if not difference <= allowed:
            raise _broken(f"output {index} differs by {difference:.3g} from the source's; {allowed:.3g} is allowed")
        largest = max(largest, difference)
    return largest


def _broken(problem: str) -> ConversionFailedError:
    return ConversionFailedError(
        FailureKind.CRASHED, f"the converted model does not compute what the source does: {problem}"
    )
