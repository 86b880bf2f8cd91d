"""Trees, forests and boosting: walked by looking up, or for a free batch by products.

By looking up: which way each node sends the row is computed once for all nodes, so that a level costs one operator.
12 bytes a node. The converter has no look-up over a free batch; products serve there, at the square of a tree's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import SchemeFailedError
from converters.sklearn_emitter import linear
from converters.sklearn_emitter.nodes import Nodes, Tree, before, check, joined, rounded_down
from converters.sklearn_emitter.step import unsupported
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from converters.sklearn_emitter.step import Array, Estimator, Step

    Scale = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_FLOAT = np.float32
_MAX_PRODUCT_BYTES = 64 * 2**20
"""More for the matrices of a free batch is no model for a device."""


class Layout:
    """How trees are to be walked: for which batch, and behind which scaling that they are to take into themselves."""

    def __init__(self, *, features: int, fixed_batch: bool, scale: Scale | None) -> None:
        self.features, self.fixed_batch, self.scale = features, fixed_batch, scale

    def sums(self, trees: Sequence[Tree], outputs: int) -> Step:
        """Return the sum of what the trees say, `(N, outputs)`; tree t says it of output t % outputs, or of all."""
        sound = [check(tree, self.features) for tree in trees]
        if self.scale is not None:
            sound = [before(self.scale, tree, self.features) for tree in sound]
        total = _summed(len(sound), sound[0].value.shape[1], outputs)
        walk = _by_look_up(joined(sound)) if self.fixed_batch else _by_products(sound, self.features)
        return lambda x: total(walk(x))


def tree(model: Estimator, layout: Layout) -> Step:
    """Probabilities `(N, classes)`, or `(N, 1)` of a regressor."""
    return forest_of([model], layout)


def forest(model: Estimator, layout: Layout) -> Step:
    """The mean of the trees' probabilities, or of their values."""
    return forest_of(model.estimators_, layout)


def forest_of(models: Sequence[Estimator], layout: Layout) -> Step:
    """The mean of what trees say."""
    trees = [_plain(model.tree_) for model in models]
    step = layout.sums(trees, trees[0].value.shape[1])
    count = _FLOAT(len(trees))
    return step if len(trees) == 1 else (lambda x: step(x) / count)


def boosting(model: Estimator, layout: Layout) -> Step:
    """A beginning, and the sum of many trees, each for one class."""
    outputs = model.estimators_.shape[1]
    trees = [_plain(stage.tree_, scale=model.learning_rate) for row in model.estimators_ for stage in row]
    # The beginning is the same for every row, unless somebody put an estimator of their own there.
    if type(model.init_).__name__ not in {"str", "DummyClassifier", "DummyRegressor"}:
        raise unsupported(model, "an init of its own")
    start = model._raw_predict_init(np.zeros((1, layout.features), _FLOAT))  # noqa: SLF001 - nothing public tells it
    raw = _shifted(layout.sums(trees, outputs), start)
    if not hasattr(model, "classes_"):
        return raw
    if model.loss == "exponential":
        return linear.probabilities(_times(raw, 2.0), 2)
    return linear.probabilities(raw, len(model.classes_))


def histogram_boosting(model: Estimator, layout: Layout) -> Step:
    """The same of the other kind, whose sums may pass through a link."""
    if model.is_categorical_ is not None and np.any(model.is_categorical_):
        raise unsupported(model, "categorical features")
    stages = model._predictors  # noqa: SLF001 - nothing public tells the trees, nor the beginning
    trees = [_histogram_tree(predictor.nodes) for stage in stages for predictor in stage]
    raw = _shifted(layout.sums(trees, len(stages[0])), model._baseline_prediction)  # noqa: SLF001
    if hasattr(model, "classes_"):
        return linear.probabilities(raw, len(model.classes_))
    link = type(model._loss.link).__name__  # noqa: SLF001 - likewise
    if link == "LogLink":
        import jax.numpy as jnp

        return lambda x: jnp.exp(raw(x))
    if link != "IdentityLink":
        raise unsupported(model, f"loss {model.loss!r}")
    return raw


def _plain(nodes: Any, scale: float = 1.0) -> Tree:  # noqa: ANN401 - scikit-learn's Tree, which has no types
    if nodes.n_outputs != 1:
        raise SchemeFailedError("trees of several targets are not supported: train one model for each")
    return Tree(
        feature=np.asarray(nodes.feature, np.int64),
        threshold=np.asarray(nodes.threshold, np.float64),
        left=np.asarray(nodes.children_left, np.int64),
        right=np.asarray(nodes.children_right, np.int64),
        value=np.asarray(nodes.value[:, 0, :], np.float64) * scale,
    )


def _histogram_tree(nodes: NDArray[Any]) -> Tree:
    # scikit-learn goes by the node, whatever the model says, and looks up its set of categories unchecked.
    if np.any(nodes["is_categorical"]):
        raise InvalidInputError(field="source", problem="holds trees that split by categories, and has no categories")
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        value=nodes["value"].astype(np.float64)[:, None],
    )


def _by_look_up(nodes: Nodes) -> Step:
    """Return a walk to `(N, trees, values)`, for a fixed batch."""
    import jax.numpy as jnp

    count = len(nodes.left)

    def walk(x: Array) -> Array:
        # Row by row behind each other: then one number says row and node, and looking up needs one axis only.
        rows = np.arange(x.shape[0], dtype=np.int32)[:, None]
        seen = _look_up(x.reshape(-1), rows * x.shape[1] + nodes.feature)
        following = (nodes.left + rows * count + (seen > nodes.threshold).astype(jnp.int32)).reshape(-1)
        place: Array = nodes.roots + rows * count
        for _ in range(nodes.depth):
            place = _look_up(following, place)
        return _values(nodes)(place - rows * count)

    return walk


def _values(nodes: Nodes) -> Step:
    """Return the look-up of what nodes say; only leaves say anything, so that a number of their own may save room."""
    outputs = nodes.value.shape[1]
    leaf = nodes.left == np.arange(len(nodes.left))
    if outputs <= 2:  # noqa: PLR2004 - then the leaf's number would take as much as it saves
        return lambda place: _look_up(nodes.value, place)
    number = np.where(leaf, np.cumsum(leaf) - 1, 0).astype(np.int32)
    table = nodes.value[leaf]
    return lambda place: _look_up(table, _look_up(number, place))


def _look_up(table: Array, places: Array) -> Array:
    import jax.numpy as jnp

    # Every place is there, by the check of the nodes; JAX would otherwise guard each look-up.
    return jnp.asarray(table).at[places].get(mode="promise_in_bounds")


def _by_products(trees: Sequence[Tree], features: int) -> Step:
    """Return a walk to `(N, trees, values)`, for any batch: a leaf is where all nodes above agree."""
    parts = [_paths(tree) for tree in trees]
    inner, leaves = max(len(part[0]) for part in parts), max(part[1].shape[1] for part in parts)
    size = len(trees) * inner * (features + leaves) * 4
    if size > _MAX_PRODUCT_BYTES:
        raise SchemeFailedError(f"for any batch its trees would take {size >> 20} MB: convert for a batch of 1")
    values = trees[0].value.shape[1]
    pick = np.zeros((len(trees), features, inner), _FLOAT)
    threshold = np.full((len(trees), inner), np.finfo(_FLOAT).max, _FLOAT)
    paths = np.zeros((len(trees), inner, leaves), _FLOAT)
    # Out of reach for a leaf that is not there.
    agreeing = np.full((len(trees), leaves), inner + 1, _FLOAT)
    said = np.zeros((len(trees), leaves, values), _FLOAT)
    for index, (part, tree) in enumerate(zip(parts, trees, strict=True)):
        nodes, path, ends = part
        pick[index, tree.feature[nodes], np.arange(len(nodes))] = 1
        threshold[index, : len(nodes)] = rounded_down(tree.threshold[nodes])
        paths[index, : path.shape[0], : path.shape[1]] = path
        agreeing[index, : path.shape[1]] = np.abs(path).sum(axis=0)
        said[index, : len(ends)] = tree.value[ends]
    return _product_walk(pick, threshold, paths, agreeing, said)


def _product_walk(
    pick: NDArray[np.float32],
    threshold: NDArray[np.float32],
    paths: NDArray[np.float32],
    agreeing: NDArray[np.float32],
    said: NDArray[np.float32],
) -> Step:
    import jax.numpy as jnp

    trees = range(len(pick))

    def walk(x: Array) -> Array:
        answers = []
        for index in trees:
            right = ((x @ pick[index]) > threshold[index]).astype(_FLOAT)
            # +1 and -1 for right and left, as the paths have them.
            reached = ((right * _FLOAT(2) - _FLOAT(1)) @ paths[index] >= agreeing[index]).astype(_FLOAT)
            answers.append(reached @ said[index])
        return jnp.stack(answers, axis=1)

    return walk


def _paths(tree: Tree) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return inner nodes, `(inner, leaves)` with +1 where a leaf lies right of the node and -1 left, and leaves."""
    nodes, ends = np.flatnonzero(~tree.leaf), np.flatnonzero(tree.leaf)
    sides = np.zeros((len(tree.left), len(nodes)), _FLOAT)
    # Children come after their parents, so that a parent's row is whole when it is handed on.
    for column, node in enumerate(nodes):
        for child, side in ((tree.left[node], -1.0), (tree.right[node], 1.0)):
            sides[child] = sides[node]
            sides[child, column] = side
    return nodes, sides[ends].T, ends


def _summed(trees: int, values: int, outputs: int) -> Step:
    if values == outputs:
        return lambda said: said.sum(axis=1)
    return lambda said: said.reshape(-1, trees // outputs, outputs).sum(axis=1)


def _shifted(step: Step, start: NDArray[Any]) -> Step:
    offset = np.asarray(start, _FLOAT).reshape(1, -1)
    return lambda x: step(x) + offset


def _times(step: Step, factor: float) -> Step:
    return lambda x: step(x) * _FLOAT(factor)
