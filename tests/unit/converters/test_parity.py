from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from converters.judgement import parity
from shared.manifest import Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converters.judgement.parity import Parity

    Tensor = NDArray[Any]

SCORES = np.random.default_rng(1).random((200, 10)).astype(np.float32)


def compared(source: Tensor, artifact: Tensor) -> Parity:
    """In blocks that do not divide the whole."""
    tally = parity.Tally([parity.scale_of(source)])
    for start in range(0, len(source), 77):
        tally.add([source[start : start + 77]], [artifact[start : start + 77]])
    return tally.parity()


@pytest.mark.parametrize("scheme", list(Scheme))
def test_parity_same_answers_pass_in_every_scheme(scheme: Scheme) -> None:
    assert parity.refusal(compared(SCORES, SCORES), scheme, 200) == ""


@pytest.mark.parametrize("scheme", list(Scheme))
def test_parity_lost_weights_are_refused_in_every_scheme(scheme: Scheme) -> None:
    # A network without weights says the same of everything.
    lost = np.full_like(SCORES, 0.1)
    assert parity.refusal(compared(SCORES, lost), scheme, 200).startswith("output_mismatch: ")


@pytest.mark.parametrize("scheme", list(Scheme))
def test_parity_nan_answers_are_refused_in_every_scheme(scheme: Scheme) -> None:
    broken = SCORES.copy()
    broken[7, 3] = np.inf
    found = compared(SCORES, broken)
    assert found.max_abs_diff is None
    assert found.snr_db is None
    refused = parity.refusal(found, scheme, 200)
    assert refused == "nan_outputs: 1 of 200 answers are NaN or infinite"


@pytest.mark.parametrize(
    ("scheme", "passes"), [(Scheme.FLOAT32, False), (Scheme.FLOAT16, True), (Scheme.FULL_INT8, True)]
)
def test_parity_one_answer_off_by_a_hundredth_passes_by_scheme(scheme: Scheme, passes: bool) -> None:
    moved = SCORES.copy()
    moved[5, 5] += 0.01
    assert (parity.refusal(compared(SCORES, moved), scheme, 200) == "") is passes


def test_parity_source_that_never_varies_is_compared_by_size() -> None:
    constant = np.full((5, 3), 0.5, np.float32)
    assert parity.refusal(compared(constant, constant), Scheme.FULL_INT8, 5) == ""
    assert parity.refusal(compared(constant, -constant), Scheme.FULL_INT8, 5)


def test_parity_noise_of_a_tenth_is_twenty_decibels() -> None:
    rng = np.random.default_rng(2)
    source = rng.normal(size=(5000, 4))
    found = compared(source, source + 0.1 * rng.normal(size=source.shape))
    assert found.snr_db == pytest.approx(20, abs=0.2)


def test_parity_without_noise_has_no_ratio() -> None:
    assert compared(SCORES, SCORES).snr_db is None


def test_parity_is_that_of_the_worst_output() -> None:
    scales = [parity.scale_of(SCORES), parity.scale_of(SCORES * 1000)]
    tally = parity.Tally(scales)
    tally.add([SCORES, SCORES * 1000], [SCORES + np.float32(0.1), SCORES * 1000])
    alone = compared(SCORES, SCORES + np.float32(0.1))
    assert tally.parity().noise == pytest.approx(alone.noise)
    assert tally.parity().relative_difference == pytest.approx(alone.relative_difference)


def test_parity_in_blocks_is_that_of_the_whole() -> None:
    moved = SCORES + np.random.default_rng(4).normal(scale=0.05, size=SCORES.shape).astype(np.float32)
    whole = parity.Tally([parity.scale_of(SCORES)])
    whole.add([SCORES], [moved])
    assert compared(SCORES, moved).noise == pytest.approx(whole.parity().noise)
    noise = float(np.sqrt(((moved.astype(np.float64) - SCORES) ** 2).mean()))
    variation = float(np.std(SCORES.astype(np.float64) - SCORES.mean(axis=0)))
    assert whole.parity().noise == pytest.approx(noise / variation, rel=1e-5)


def test_scale_of_a_source_that_answers_nan_says_how_often() -> None:
    broken = SCORES.copy()
    broken[3:7, 2] = np.nan
    assert parity.scale_of(broken).not_finite == 4
