"""Whether a float model answers as its source does: an exit code of 0 proves nothing, only answers do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import ConversionFailedError
from converters.frontends.frontend import MAX_DIFFERENCE
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
_ROUNDINGS = 10.0
"""A network rounds at every operator, and the nudge stands for the first one only. Measured on a model that takes
logarithms of a spectrum: 3 to 5 times the nudge."""
_MOST = 0.01
"""Beyond this share of the largest answer no rounding is an excuse."""
_LEAST = 1e-7
"""What is left of numbers around 1 that cancel each other: answers below it may be nothing else."""


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


def nudged(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return inputs that differ by the least that float numbers can."""
    return [np.nextafter(array, np.inf, dtype=array.dtype) if array.dtype.kind == "f" else array for array in inputs]


def check_steady(answers: Sequence[Tensor], again: Sequence[Tensor]) -> None:
    """Refuse a source that answered the same inputs otherwise the second time: nothing can be held to its answers.

    Raises:
        InvalidInputError: by more than rounding.
    """
    same = [one.shape for one in answers] == [other.shape for other in again] and all_finite(again)
    if same:
        moves = zip(_largest_differences(answers, again), map(_plainly_small, answers), strict=True)
        same = all(move <= most for move, most in moves)
    if not same:
        raise InvalidInputError(
            field="source",
            problem="the model answers the same inputs otherwise each time: noise or augmentation is still in it",
            remedy="export it as it is to serve, without what only training needs",
        )


def check(source: Sequence[Tensor], made: Sequence[Tensor], nearby: Callable[[], Sequence[Tensor]]) -> float:
    """Return the largest difference of a float model's answers from its source's, which must be finite.

    `nearby` gives the source's answers to `nudged` inputs; it is asked only where the difference is not plainly small.

    Raises:
        ConversionFailedError: they are not the same answers.
    """
    shapes = [array.shape for array in source], [array.shape for array in made]
    if shapes[0] != shapes[1]:
        raise _broken(f"its answers have shapes {shapes[1]}, the source's {shapes[0]}")
    if not all_finite(made):
        raise _broken("it answers NaN or infinity where the source does not")
    differences = _largest_differences(source, made)
    allowed = [_plainly_small(array) for array in source]
    if any(difference > most for difference, most in zip(differences, allowed, strict=True)):
        allowed = _allowed_by_rounding(source, nearby(), allowed)
    for index, (difference, most) in enumerate(zip(differences, allowed, strict=True)):
        if not difference <= most:
            raise _broken(f"output {index} differs by {difference:.3g} from the source's; {most:.3g} is allowed")
    return max(differences, default=0.0)


def _allowed_by_rounding(source: Sequence[Tensor], nearby: Sequence[Tensor], least: Sequence[float]) -> list[float]:
    """Allow a model what its own arithmetic leaves open: some multiply the rounding of their inputs a thousandfold."""
    moves = _largest_differences(source, nearby)
    return [
        max(low, min(_ROUNDINGS * move, _MOST * _largest(array)))
        for low, move, array in zip(least, moves, source, strict=True)
    ]


def _largest_differences(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[float]:
    # In 64 bits: integers would wrap around.
    return [
        float(np.abs(np.asarray(left, np.float64) - right).max(initial=0.0))
        for left, right in zip(one, other, strict=True)
    ]


def _plainly_small(answers: Tensor) -> float:
    largest = _largest(answers)
    # Zeros would else pass for the answers of a model whose own are small.
    return min(MAX_DIFFERENCE * max(1.0, largest), max(_MOST * largest, _LEAST))


def _largest(answers: Tensor) -> float:
    return float(np.abs(np.asarray(answers, np.float64)).max(initial=0.0))


def _broken(problem: str) -> ConversionFailedError:
    return ConversionFailedError(
        FailureKind.CRASHED, f"the converted model does not compute what the source does: {problem}"
    )
