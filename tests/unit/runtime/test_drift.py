from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from shared.runtime import drift

if TYPE_CHECKING:
    from shared.manifest import ReferenceHistogram

RNG = 20


def reference_of(values: list[float], name: str = "input.mean") -> ReferenceHistogram:
    """Return the histogram of one figure."""
    (found,) = drift.references([{name: value} for value in values])
    return found


@pytest.mark.parametrize(
    ("value", "freedom", "chance"),
    [
        (3.841, 1, 0.05),
        (5.991, 2, 0.05),
        (16.919, 9, 0.05),
        (21.666, 9, 0.01),
        (51.893, 29, 0.0056),
        (27.877, 9, 0.001),
    ],
)
def test_chi_square_tail_is_that_of_printed_tables(value: float, freedom: int, chance: float) -> None:
    assert drift.chi_square_tail(value, freedom) == pytest.approx(chance, rel=0.01)
    assert drift.chi_square_quantile(chance, freedom) == pytest.approx(value, rel=0.01)


def test_chances_of_all_looks_and_figures_add_up_to_alpha() -> None:
    total = sum(drift.chance_of_look(look, 7) for look in range(1, 100_000)) * 7
    assert total == pytest.approx(drift.ALPHA, rel=1e-4)
    assert total < drift.ALPHA


@pytest.mark.parametrize(("reference", "live"), [(100, 128), (300, 512), (2_000, 256)])
def test_index_of_one_population_has_the_mean_that_its_sizes_give_it(reference: int, live: int) -> None:
    rng = np.random.default_rng(RNG)
    found, scale = [], 1 / reference + 1 / live
    for _ in range(300):
        histogram = reference_of(rng.normal(size=reference).tolist())
        observed = np.bincount(np.searchsorted(histogram.edges, rng.normal(size=live), side="right"), minlength=10)
        found.append(drift.psi(histogram.counts, observed.tolist()) / scale)
    assert np.mean(found) == pytest.approx(9, rel=0.1)


def test_small_sample_may_differ_more_than_a_large_one() -> None:
    counts = [100] * 10
    small = drift.threshold(counts, [10] * 10, chance=1e-3)
    large = drift.threshold(counts, [1000] * 10, chance=1e-3)
    assert small > 0.25 > large >= drift.LEAST_PSI


def test_vector_is_watched_number_by_number_and_an_image_as_a_whole() -> None:
    assert drift.input_figures(np.array([1, 2.5], np.float32)) == {"input.feature_0": 1.0, "input.feature_1": 2.5}
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2] = 100
    assert drift.input_figures(picture) == {"input.mean": 50.0, "input.deviation": 50.0, "input.extremes": 1.0}


def test_item_without_numbers_has_no_figures() -> None:
    assert drift.input_figures(np.array([b"text"], dtype=object)) == {}
    assert drift.input_figures(np.empty((0,), np.float32)) == {}


def test_confidence_is_a_figure_only_of_shares() -> None:
    assert drift.output_figures(np.array([0.2, 0.8])) == {"class": 1.0, "confidence": 0.8}
    assert drift.output_figures(np.array([-3.0, 7.0])) == {"class": 1.0}
    assert drift.output_figures(np.array([0.7])) == {}


def test_reference_needs_enough_items_and_finite_ones() -> None:
    assert drift.references([]) == ()
    assert drift.references([{"input.mean": float(each)} for each in range(19)]) == ()
    assert drift.references([{"input.mean": float("nan")} for _ in range(100)]) == ()
    assert len(reference_of([float(each) for each in range(20)]).counts) == 2


def test_figure_that_some_items_lack_has_no_reference() -> None:
    items = [{"class": float(each % 3), **({"confidence": 0.5} if each else {})} for each in range(90)]
    assert [each.name for each in drift.references(items)] == ["class"]


def test_constant_figure_tells_apart_what_is_below_and_above_it() -> None:
    constant = reference_of([5.0] * 100)
    assert [constant.counts[drift.bin_of(constant, value)] for value in (4.9, 5.0, 5.1)] == [0, 100, 0]


def test_bins_hold_every_item_once_and_alike() -> None:
    histogram = reference_of(np.random.default_rng(RNG).normal(size=1000).tolist())
    assert sum(histogram.counts) == 1000
    assert histogram.counts == (100,) * 10
    assert list(histogram.edges) == sorted(set(histogram.edges))


def test_rare_classes_share_a_bin_with_their_neighbours() -> None:
    classes = [0] * 50 + [1] * 2 + [2] * 50 + [3] * 3
    histogram = reference_of([float(each) for each in classes], "class")
    assert (histogram.edges, histogram.counts) == ((1.0,), (50, 55))
    assert drift.bin_of(histogram, 999.0) == 1


def test_thousand_classes_make_few_bins() -> None:
    rng = np.random.default_rng(RNG)
    histogram = reference_of(rng.integers(0, 1000, 10_000).astype(float).tolist(), "class")
    assert 16 <= len(histogram.counts) <= 32
    assert sum(histogram.counts) == 10_000
