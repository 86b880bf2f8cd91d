"""Decision trees of every kind as one table of nodes, with exactly scikit-learn's decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int32]

_HIGHEST = float(np.finfo(np.float32).max)
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One tree. A leaf's children are -1; a node's children come after it."""

    feature: NDArray[np.int64]
    threshold: Floats
    """A row goes left when its feature is at most this."""
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Floats
    """`(nodes, outputs)`."""

    @property
    def leaf(self) -> NDArray[np.bool_]:
        """Which nodes are leaves."""
        return self.left < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The nodes of all trees, siblings side by side, so that one number leads to both."""

    feature: Ints
    threshold: NDArray[np.float32]
    left: Ints
    """The left child; the right one is the next. A leaf is its own left child, and no row goes right there."""
    value: NDArray[np.float32]
    """`(nodes, outputs)`."""
    roots: Ints
    depth: int


def check(tree: Tree, features: int) -> Tree:
    """Refuse a tree that leads nowhere: a file may say anything, and scikit-learn would follow it.

    Raises:
        InvalidInputError: a child, a feature or a value is not there.
    """
    count = len(tree.left)
    inner = ~tree.leaf
    here = np.arange(count)[inner]
    sound = count > 0 and all(len(column) == count for column in (tree.right, tree.feature, tree.threshold, tree.value))
    for child in (tree.left, tree.right):
        sound = sound and bool(((child[inner] > here) & (child[inner] < count)).all())
    sound = sound and bool(((tree.feature[inner] >= 0) & (tree.feature[inner] < features)).all())
    if not sound or not np.isfinite(tree.value).all() or np.isnan(tree.threshold[inner]).any():
        raise InvalidInputError(field="source", problem="holds a tree whose nodes lead nowhere")
    return tree


def rounded_down(threshold: Floats) -> NDArray[np.float32]:
    """Return the largest single-precision number not above each: x <= it exactly when x <= the threshold.

    Never a subnormal one, which many processors take for 0; next to 0, subnormal x may fall on the other side.
    """
    narrow = np.clip(threshold, -_HIGHEST, _HIGHEST).astype(np.float32)
    narrow = np.where(narrow > threshold, np.nextafter(narrow, -_HIGHEST), narrow)
    narrow = np.where((threshold < 0) & (threshold > -_TINY), -_TINY, narrow)
    return np.where((threshold > 0) & (threshold < _TINY), 0.0, narrow).astype(np.float32)


def before(scale: Callable[[NDArray[np.float32]], NDArray[np.float32]], tree: Tree, features: int) -> Tree:
    """Return the tree that decides on raw rows as `tree` does on scaled ones.

    `scale` maps each column by itself and never downwards. A threshold becomes the largest raw number that scales to
    it or less, found by halving, so that no rounding of the scaling can move a row to another leaf.
    """
    inner = ~tree.leaf
    wanted = rounded_down(tree.threshold[inner])
    column, rows = tree.feature[inner], np.arange(int(inner.sum()))
    # Between them lies every number; whole numbers in the order of the numbers that they stand for.
    low, high = np.full(len(rows), _ordered(-_HIGHEST)), np.full(len(rows), _ordered(_HIGHEST))
    while np.any(low < high):
        middle = (low + high + 1) >> 1
        raw = np.zeros((len(rows), features), np.float32)
        raw[rows, column] = _number(middle)
        # Numbers at the ends of what there is scale to infinity, which is in order.
        with np.errstate(over="ignore"):
            fits = scale(raw)[rows, column] <= wanted
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    threshold = tree.threshold.copy()
    threshold[inner] = _number(low)
    return Tree(feature=tree.feature, threshold=threshold, left=tree.left, right=tree.right, value=tree.value)


def joined(trees: Sequence[Tree]) -> Nodes:
    """Lay the trees one behind the other, each breadth first."""
    places = [_breadth_first(tree) for tree in trees]
    starts = np.cumsum([0, *(len(tree.left) for tree in trees)])[:-1]
    parts = [_placed(tree, order, int(start)) for tree, (order, _), start in zip(trees, places, starts, strict=True)]
    feature, threshold, left, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Nodes(
        feature=feature.astype(np.int32),
        threshold=threshold.astype(np.float32),
        left=left.astype(np.int32),
        value=value.astype(np.float32),
        roots=starts.astype(np.int32),
        depth=max(depth for _, depth in places),
    )


def _placed(tree: Tree, order: NDArray[np.int64], start: int) -> tuple[NDArray[Any], ...]:
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    leaf = tree.leaf[order]
    left = np.where(leaf, np.arange(len(order)), place[tree.left[order]]) + start
    feature = np.where(leaf, 0, tree.feature[order])
    threshold = np.where(leaf, _HIGHEST, rounded_down(np.where(leaf, 0.0, tree.threshold[order])))
    return feature, threshold, left, tree.value[order]


def _breadth_first(tree: Tree) -> tuple[NDArray[np.int64], int]:
    """Return the nodes level by level, siblings side by side, and how many levels lie below the root."""
    levels = [np.zeros(1, np.int64)]
    while True:
        inner = levels[-1][~tree.leaf[levels[-1]]]
        if not len(inner):
            break
        levels.append(np.stack([tree.left[inner], tree.right[inner]], axis=1).reshape(-1))
        # A node with two parents is no tree, and would double from level to level.
        if sum(map(len, levels)) > len(tree.left):
            raise InvalidInputError(field="source", problem="holds a tree whose branches grow together")
    order = np.concatenate(levels)
    # As many as there are, and each of them once.
    if len(np.unique(order)) != len(tree.left):
        raise InvalidInputError(field="source", problem="holds a tree with nodes that belong to no branch")
    return order, len(levels) - 1


def _ordered(number: float) -> int:
    bits = int(np.float32(number).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(ordered: NDArray[np.int64]) -> NDArray[np.float32]:
    magnitude = np.abs(ordered).astype(np.int32).view(np.float32)
    return np.where(ordered < 0, -magnitude, magnitude).astype(np.float32)
