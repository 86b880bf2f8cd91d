"""Tables of nodes: decisions to the last bit, and trees that lead nowhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from converters.sklearn_emitter.nodes import Tree, before, check, joined, rounded_down
from converters.sklearn_emitter.trees import Layout, histogram_boosting
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Some libraries have the processor take subnormal numbers for 0.
FINITE = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
NARROW = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32)


def tree(left: list[int], right: list[int], feature: list[int] | None = None, threshold: float = 0.5) -> Tree:
    count = len(left)
    return Tree(
        feature=np.array(feature or [0] * count),
        threshold=np.full(count, threshold),
        left=np.array(left),
        right=np.array(right),
        value=np.arange(float(count))[:, None],
    )


@given(x=NARROW, threshold=FINITE)
def test_rounded_threshold_decides_as_the_exact_one(x: float, threshold: float) -> None:
    (narrow,) = rounded_down(np.array([threshold]))
    assert (np.float32(x) <= narrow) == (x <= threshold)


@settings(max_examples=50)
@given(
    threshold=st.floats(-1e6, 1e6, allow_subnormal=False),
    mean=st.floats(-1024, 1024, allow_subnormal=False, width=32),
    scale=st.floats(2**-10, 2**10, width=32),
    offset=st.integers(-3, 3),
)
def test_threshold_before_scaling_decides_as_the_one_after_it(
    threshold: float, mean: float, scale: float, offset: int
) -> None:
    def scaled(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((rows - np.float32(mean)) / np.float32(scale)).astype(np.float32)

    after = tree([1, -1, -1], [2, -1, -1], threshold=threshold)
    raw = before(scaled, after, features=1)
    # At the border, where rounding decides, and steps of one bit around it.
    x = np.float32(raw.threshold[0])
    for _ in range(abs(offset)):
        x = np.nextafter(x, np.float32(np.copysign(np.inf, offset)))
    assume(x == 0 or abs(x) >= np.finfo(np.float32).tiny)
    # As Python's numbers: numpy would narrow the threshold.
    after_scaling = float(scaled(np.array([[x]], np.float32))[0, 0])
    assert (x <= rounded_down(raw.threshold)[0]) == (after_scaling <= threshold)


def test_siblings_stand_side_by_side_and_leaves_lead_to_themselves() -> None:
    # Depth first, as scikit-learn has it: 0 → (1 → (2, 3), 4).
    nodes = joined([tree([1, 2, -1, -1, -1], [4, 3, -1, -1, -1]), tree([-1], [-1])])
    assert nodes.left.tolist() == [1, 3, 2, 3, 4, 5]
    assert nodes.value[:, 0].tolist() == [0.0, 1.0, 4.0, 2.0, 3.0, 0.0]
    assert nodes.roots.tolist() == [0, 5]
    assert nodes.depth == 2
    assert (nodes.threshold[2:] == np.finfo(np.float32).max).all()


@pytest.mark.parametrize(
    ("left", "right", "feature"),
    [
        ([0, -1, -1], [2, -1, -1], [0, 0, 0]),
        ([2, -1, 0], [1, -1, 1], [0, 0, 0]),
        ([1, -1, -1], [3, -1, -1], [0, 0, 0]),
        ([1, -1, -1], [-1, -1, -1], [0, 0, 0]),
        ([1, -1, -1], [2, -1, -1], [4, 0, 0]),
        ([1, -1, -1], [2, -1, -1], [-2, 0, 0]),
        ([], [], []),
    ],
)
def test_tree_that_leads_nowhere_is_refused(left: list[int], right: list[int], feature: list[int]) -> None:
    with pytest.raises(InvalidInputError, match="lead nowhere"):
        check(tree(left, right, feature), features=4)


@pytest.mark.parametrize(("field", "number"), [("value", np.nan), ("value", np.inf), ("threshold", np.nan)])
def test_tree_of_numbers_that_are_none_is_refused(field: str, number: float) -> None:
    broken = tree([1, -1, -1], [2, -1, -1])
    getattr(broken, field)[0] = number
    with pytest.raises(InvalidInputError, match="lead nowhere"):
        check(broken, features=1)


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ([1, 2, 3, -1], [1, 2, 3, -1], "grow together"),
        ([1, -1, -1, -1], [2, -1, -1, -1], "belong to no branch"),
        ([4, -1, 3, -1, -1], [2, -1, 4, -1, -1], "belong to no branch"),
    ],
)
def test_graph_that_is_no_tree_is_refused(left: list[int], right: list[int], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        joined([check(tree(left, right), features=1)])


def test_tree_that_splits_by_categories_behind_its_models_back_is_refused() -> None:
    fields = "is_leaf", "feature_idx", "num_threshold", "left", "right", "value", "is_categorical", "bitset_idx"
    nodes = np.zeros(1, [(name, np.float64) for name in fields])
    nodes["is_leaf"] = nodes["is_categorical"] = 1
    nodes["bitset_idx"] = 2**31
    model = SimpleNamespace(is_categorical_=None, _predictors=[[SimpleNamespace(nodes=nodes)]])
    with pytest.raises(InvalidInputError, match="split by categories"):
        histogram_boosting(model, Layout(features=1, fixed_batch=True, scale=None))
