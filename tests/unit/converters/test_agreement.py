from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.failures import ConversionFailedError
from converters.frontends import agreement
from shared.conversion import FailureKind
from shared.errors import InvalidInputError
from shared.manifest import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

ANSWERS = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def still() -> Sequence[Tensor]:
    """The answers of a model that rounding does not move."""
    return [ANSWERS]


def test_equal_answers_agree() -> None:
    assert agreement.check([ANSWERS], [ANSWERS.copy()], still) == 0.0


def test_rounding_is_told_and_allowed() -> None:
    assert 0 < agreement.check([ANSWERS], [ANSWERS + np.float32(5e-6)], still) <= 1e-5


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (ANSWERS + np.float32(2e-5), "output 0 differs by"),
        (np.zeros_like(ANSWERS), "output 0 differs by 0.75"),
        (ANSWERS * np.nan, "NaN"),
        (np.full_like(ANSWERS, np.inf), "NaN or infinity"),
        (ANSWERS[:1], r"shapes \[\(1, 2\)\]"),
    ],
)
def test_other_answers_are_refused_with_what_is_wrong(made: Tensor, said: str) -> None:
    with pytest.raises(ConversionFailedError, match=said) as caught:
        agreement.check([ANSWERS], [made], still)
    assert caught.value.kind is FailureKind.CRASHED


def test_large_answers_may_differ_by_their_share() -> None:
    large = ANSWERS * 1000
    assert agreement.check([large], [large + np.float32(5e-3)], lambda: [large]) > 1e-3


def test_model_that_rounding_moves_may_differ_by_as_much() -> None:
    moved = [ANSWERS + np.float32(1e-4)]
    assert agreement.check([ANSWERS], [ANSWERS + np.float32(5e-4)], lambda: moved) > 1e-4
    with pytest.raises(ConversionFailedError):
        agreement.check([ANSWERS], [ANSWERS + np.float32(2e-3)], lambda: moved)


def test_model_that_rounding_upsets_altogether_is_excused_of_little() -> None:
    with pytest.raises(ConversionFailedError, match=r"0\.0075 is allowed"):
        agreement.check([ANSWERS], [1 - ANSWERS], lambda: [1 - ANSWERS])


@pytest.mark.parametrize("largest", [1e-5, 1e-4, 1e-3])
def test_zeros_do_not_pass_for_small_answers(largest: float) -> None:
    small = [ANSWERS * np.float32(largest)]
    agreement.check(small, [small[0] * np.float32(1.001)], lambda: small)
    with pytest.raises(ConversionFailedError, match="differs"):
        agreement.check(small, [np.zeros_like(ANSWERS)], lambda: small)


def test_what_is_left_of_cancelled_numbers_may_differ() -> None:
    nothing = [ANSWERS * np.float32(1e-8)]
    assert agreement.check(nothing, [np.zeros_like(ANSWERS)], lambda: nothing) < 1e-8


def test_source_that_answers_by_chance_is_refused_with_the_remedy() -> None:
    agreement.check_steady([ANSWERS], [ANSWERS + np.float32(1e-6)])
    for again in (ANSWERS + np.float32(1e-3), ANSWERS * np.nan, ANSWERS[:1]):
        with pytest.raises(InvalidInputError, match="otherwise each time") as caught:
            agreement.check_steady([ANSWERS], [again])
        assert "without what only training needs" in caught.value.remedy


def test_integers_are_compared_without_wrapping_around() -> None:
    with pytest.raises(ConversionFailedError, match="differs by 255"):
        agreement.check([np.array([255], np.uint8)], [np.array([0], np.uint8)], lambda: [np.array([255], np.uint8)])


def test_nudge_moves_floats_by_the_least_and_leaves_integers() -> None:
    numbers, words = agreement.nudged([np.array([1.0, 0.0], np.float32), np.array([7], np.int32)])
    assert numbers.dtype == np.float32
    assert (numbers > [1.0, 0.0]).all()
    assert numbers[0] - 1.0 < 2e-7
    assert words.tolist() == [7]


def test_probes_fit_the_inputs_and_are_the_same_each_time() -> None:
    specs = [
        TensorSpec(name="image", dtype="uint8", shape=(1, 4, 4)),
        TensorSpec(name="words", dtype="int32", shape=(-1, 3)),
        TensorSpec(name="flags", dtype="bool", shape=(-1, 2)),
        TensorSpec(name="signal", dtype="float32", shape=(1, 5)),
    ]
    first, again = [*agreement.probes(specs)], [*agreement.probes(specs)]
    for image, words, flags, signal in first:
        assert [array.shape for array in (image, words, flags, signal)] == [(4, 4, 4), (4, 3), (4, 2), (4, 5)]
        # Words of a vocabulary of two are words of any.
        assert words.max() <= 1
        assert flags.dtype == bool
        assert signal.dtype == np.float32
    assert all(
        np.array_equal(one, other)
        for left, right in zip(first, again, strict=True)
        for one, other in zip(left, right, strict=True)
    )


def test_probes_of_an_open_size_are_refused_by_the_inputs_name() -> None:
    with pytest.raises(InvalidInputError, match="shape of input night open"):
        next(agreement.probes([TensorSpec(name="night", dtype="float32", shape=(1, -1, 4))]))


def test_pieces_are_answered_in_order_and_put_together() -> None:
    sizes: list[int] = []

    def double(inputs: Sequence[Tensor]) -> list[Tensor]:
        sizes.append(len(inputs[0]))
        return [inputs[0] * 2]

    (answers,) = agreement.in_pieces(double, [np.arange(7)], size=3)
    assert sizes == [3, 3, 1]
    assert answers.tolist() == [0, 2, 4, 6, 8, 10, 12]
