from __future__ import annotations

import numpy as np
import pytest

from converters.quantization.weight_grid import Grid


def test_rounded_channels_have_steps_of_their_own() -> None:
    weights = np.array([[1.0, 0.5], [0.01, 0.005]], np.float32)
    error = np.abs(Grid(bits=8).rounded(weights, 0) - weights)
    assert (error <= np.array([[1 / 254], [0.01 / 254]]) + 1e-9).all()


def test_rounded_per_tensor_loses_small_channels() -> None:
    weights = np.array([[1.0, 0.5], [0.003, 0.003]], np.float32)
    assert not Grid(bits=8, per_tensor=True).rounded(weights, 0)[1].any()


@pytest.mark.parametrize(("bits", "levels"), [(8, 255), (4, 16)])
def test_rounded_takes_no_more_values_than_the_bits_allow(bits: int, levels: int) -> None:
    weights = np.random.default_rng(0).normal(size=(1, 5000)).astype(np.float32)
    assert len(np.unique(Grid(bits=bits).rounded(weights, 0))) <= levels


def test_rounded_blocks_are_finer_than_channels() -> None:
    weights = np.concatenate([np.full((1, 32), 1.0), np.linspace(0, 0.05, 32)[np.newaxis]], axis=1).astype(np.float32)
    blocks, channel = Grid(bits=4, block=32), Grid(bits=4)
    assert np.abs(blocks.rounded(weights, 0) - weights).max() < np.abs(channel.rounded(weights, 0) - weights).max() / 5


def test_rounded_zeros_stay_zeros() -> None:
    assert not Grid(bits=8).rounded(np.zeros((4, 4), np.float32), 0).any()
