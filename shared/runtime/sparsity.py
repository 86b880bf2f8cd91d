"""Sparse weights: what their index says must fit the tensor, since kernels unpack it without asking.

Source: tensorflow/lite/schema/schema.fbs (SparsityParameters), after Kjolstad et al., "The Tensor Algebra Compiler",
OOPSLA 2017: one level for each axis, in the order of storage; a level is dense, or compressed like the rows of CSR.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from shared.errors import ModelLoadError
from shared.runtime import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.runtime.flatbuffer import Table

_DENSE, _COMPRESSED = 0, 1
_LETTERS = {1: "i", 2: "H", 3: "B"}
"""Of the kinds of vectors that an index may be stored in."""


def stored_values(sparsity: Table, shape: Sequence[int], name: str) -> int:
    """Return how many values a sparse tensor of this shape keeps in the file.

    Raises:
        ModelLoadError: the index leads out of the tensor, or out of itself.
    """
    order, blocks = sparsity.integers(schema.SPARSITY_ORDER), sparsity.integers(schema.SPARSITY_BLOCKS)
    levels = sparsity.tables(schema.SPARSITY_LEVELS)
    rank = len(shape)
    _require(len(levels) == rank + len(blocks), f"{name} has {len(levels)} levels for {rank} axes")
    _require(sorted(order) == list(range(len(levels))), f"{name} stores its axes in the order {order[:16]}")
    # Blocks are stored innermost, as the runtime expects them.
    _require(
        list(order[rank:]) == list(range(rank, len(levels))), f"{name} stores its blocks in the order {order[:16]}"
    )
    _require(len(set(blocks)) == len(blocks), f"{name} has two blocks on one axis")
    sizes = list(shape)
    for block, level in zip(blocks, levels[rank:], strict=True):
        _require(0 <= block < rank, f"{name} has a block on axis {block}")
        size = level.number(schema.LEVEL_DENSE_SIZE, "i")
        _require(size > 0 and sizes[block] % size == 0, f"{name} has blocks of {size} on an axis of {sizes[block]}")
        sizes[block] //= size
        sizes.append(size)
    count = 1
    for axis, level in zip(order, levels, strict=True):
        count = _expanded(level, count, sizes[axis], name)
    return count


def _expanded(level: Table, parents: int, size: int, name: str) -> int:
    """Return how many entries a level has below so many of the one before it."""
    form = level.number(schema.LEVEL_FORMAT, "b")
    if form == _DENSE:
        dense = level.number(schema.LEVEL_DENSE_SIZE, "i")
        _require(dense == size, f"{name} says {dense} of an axis of {size}")
        return parents * dense
    _require(form == _COMPRESSED, f"{name} has a level of form {form}")
    segments = _numbers(level, schema.LEVEL_SEGMENTS_KIND, schema.LEVEL_SEGMENTS, name)
    indexes = _numbers(level, schema.LEVEL_INDEXES_KIND, schema.LEVEL_INDEXES, name)
    _require(len(segments) == parents + 1, f"{name} has {len(segments)} segments for {parents} entries")
    ends = segments[0] == 0 and segments[-1] == len(indexes)
    _require(ends and all(start <= stop for start, stop in pairwise(segments)), f"{name} has segments in disorder")
    _require(all(0 <= index < size for index in indexes), f"{name} has an index beyond an axis of {size}")
    return len(indexes)


def _numbers(level: Table, kind_field: int, field: int, name: str) -> tuple[int, ...]:
    letter, values = _LETTERS.get(level.number(kind_field, "B")), level.table(field)
    if letter is None or values is None:
        raise ModelLoadError(f"the model is malformed: {name} has no index")
    return values.integers(0, letter)


def _require(holds: bool, problem: str) -> None:  # noqa: FBT001 - the condition is the point, as in an assertion
    if not holds:
        raise ModelLoadError(f"the model is malformed: {problem}")
