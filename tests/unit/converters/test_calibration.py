from __future__ import annotations

import numpy as np
import pytest

from converters.failures import SchemeFailedError
from converters.quantization import calibration
from converters.quantization.calibration import INT8_LEVELS, Histogram, Range, choose
from shared.conversion import CalibrationMethod
from tests.support import networks

BINS = 4096


def histogram(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Histogram:
    counts, edges = np.histogram(values, BINS)
    return Histogram(whole=Range(low=float(edges[0]), high=float(edges[-1])), counts=counts)


@pytest.fixture
def bell() -> Histogram:
    """A million values of a bell curve, and two far outside."""
    rng = np.random.default_rng(0)
    return histogram(np.concatenate([rng.normal(0, 1, 1_000_000), np.full(2, 30.0)]))


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_range_of_an_even_distribution_is_kept_nearly_whole(method: CalibrationMethod) -> None:
    chosen = choose(histogram(np.linspace(-3, 3, 200_000)), method, INT8_LEVELS)
    assert chosen.low < -2.9
    assert chosen.high > 2.9


def test_min_max_keeps_the_farthest_value(bell: Histogram) -> None:
    assert choose(bell, CalibrationMethod.MIN_MAX, INT8_LEVELS).high == pytest.approx(30, rel=1e-6)


def test_percentile_leaves_out_a_hundred_thousandth(bell: Histogram) -> None:
    chosen = choose(bell, CalibrationMethod.PERCENTILE, INT8_LEVELS)
    assert 3.5 < chosen.high < 6


@pytest.mark.parametrize("method", [CalibrationMethod.MSE, CalibrationMethod.KL])
def test_fitted_range_cuts_far_outliers_of_a_bell_curve(bell: Histogram, method: CalibrationMethod) -> None:
    assert choose(bell, method, INT8_LEVELS).high < 20


def test_mse_prefers_no_cut_when_extremes_are_frequent() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), np.full(1000, 6.0)])
    assert choose(histogram(values), CalibrationMethod.MSE, INT8_LEVELS).high == pytest.approx(6)


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_range_holds_zero_whatever_the_values_are(method: CalibrationMethod) -> None:
    chosen = choose(histogram(np.linspace(2, 3, 10_000)), method, INT8_LEVELS)
    assert chosen.low == 0


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_range_of_a_constant_is_finite(method: CalibrationMethod) -> None:
    counts = np.zeros(BINS, np.int64)
    counts[0] = 100
    chosen = choose(Histogram(whole=Range(low=0.0, high=0.0), counts=counts), method, INT8_LEVELS)
    assert np.isfinite([chosen.low, chosen.high]).all()


def test_measure_takes_the_extremes_of_all_items_not_an_average() -> None:
    quiet, loud = np.full((12, 12, 3), 0.1, np.float32), np.full((12, 12, 3), 2.0, np.float32)
    ranges = calibration.measure(
        networks.network(), [*[quiet] * 20, loud], CalibrationMethod.MIN_MAX, levels=INT8_LEVELS
    )
    assert ranges["image"].high == pytest.approx(2.0)


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_measure_keeps_inputs_and_answers_whole(method: CalibrationMethod) -> None:
    model, items = networks.network(), networks.images(16)
    whole = calibration.measure(model, items, CalibrationMethod.MIN_MAX, levels=INT8_LEVELS)
    ranges = calibration.measure(model, items, method, levels=INT8_LEVELS)
    assert {name: ranges[name] for name in ("image", "scores")} == {name: whole[name] for name in ("image", "scores")}


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_measure_names_every_activation_and_no_weight(method: CalibrationMethod) -> None:
    ranges = calibration.measure(networks.network(), networks.images(4), method, levels=INT8_LEVELS)
    assert set(ranges) == {"image", "stem", "depthwise", "project", "sum", "mean", "scores"}


def test_measure_without_items_is_refused() -> None:
    with pytest.raises(SchemeFailedError, match="none"):
        calibration.measure(networks.network(), [], CalibrationMethod.MIN_MAX, levels=INT8_LEVELS)


def test_measure_refuses_items_of_another_shape() -> None:
    with pytest.raises(SchemeFailedError, match="calibration item"):
        calibration.measure(
            networks.network(), [np.zeros((5,), np.float32)], CalibrationMethod.MIN_MAX, levels=INT8_LEVELS
        )


def test_measure_refuses_a_model_that_answers_nan() -> None:
    item = np.full((12, 12, 3), np.nan, np.float32)
    with pytest.raises(SchemeFailedError, match="NaN"):
        calibration.measure(networks.network(), [item], CalibrationMethod.MIN_MAX, levels=INT8_LEVELS)


def test_kl_is_not_drawn_in_by_the_zeros_that_relu_leaves() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.zeros(500_000), rng.uniform(0, 6, 500_000)])
    assert choose(histogram(values), CalibrationMethod.KL, INT8_LEVELS).high > 5.5
