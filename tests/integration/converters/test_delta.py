"""Deltas of random pairs and of real networks: exact, the same each time, and small where the networks are alike."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from converters.delta import make
from shared.delta import MAX_SHARE, DeltaEncoding, DeltaOutcome
from tests.support.deltas import applied, random_pair, tuned, weights, write_pair
from tests.support.digit_network import DigitNetwork

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = 1_000
HEAD_SHARE, TUNED_SHARE = 0.03, 0.06


def test_thousand_random_pairs_are_put_together_exactly(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    made = {None: 0, DeltaEncoding.PATCH: 0, DeltaEncoding.SUBTRACT: 0}
    for number in range(PAIRS):
        old, new = random_pair(generator)
        into = tmp_path / "delta"
        outcome = make(*write_pair(tmp_path, old, new), into)
        made[outcome.encoding] += 1
        assert into.exists() == (outcome.encoding is not None), number
        if outcome.encoding is not None:
            delta = into.read_bytes()
            assert len(delta) == outcome.length_bytes <= MAX_SHARE * len(new), number
            assert applied(delta, old) == new, number
            into.unlink()
    # Each of the three ways out was taken often.
    assert min(made.values()) > PAIRS // 20, made


def test_unrelated_weights_are_not_worth_a_delta(tmp_path: Path) -> None:
    outcome = make(*write_pair(tmp_path, weights(100_000), weights(100_000, seed=5)), tmp_path / "delta")
    assert outcome.encoding is None
    assert outcome.length_bytes > 0.8 * 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_file_larger_than_every_window_is_told_in_segments(tmp_path: Path) -> None:
    old = weights(10_000_000)
    new = b"more in front" + old[:5_000_000] + old[5_500_000:] + weights(1_000, seed=6)
    outcome = make(*write_pair(tmp_path, old, new), tmp_path / "delta")
    assert outcome.length_bytes < 20_000
    assert applied((tmp_path / "delta").read_bytes(), old) == new


def test_program_makes_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    old = weights(200_000)
    paths = write_pair(tmp_path, old, b"name" + tuned(old, share=0.1))
    for name, seed in (("a", "1"), ("b", "2")):
        command = [sys.executable, "-m", "converters.delta", *map(str, paths), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        outcome = msgspec.json.decode(done.stdout, type=DeltaOutcome)
        assert outcome.length_bytes == (tmp_path / name).stat().st_size
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_program_called_wrongly_says_how() -> None:
    done = subprocess.run([sys.executable, "-m", "converters.delta", "x"], capture_output=True, check=False)
    assert (done.returncode, b"usage" in done.stderr) == (2, True)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")
def test_real_network_trained_further_fits_its_share(tmp_path: Path) -> None:
    network = DigitNetwork()
    for name, train, share in (("head", network.head, HEAD_SHARE), ("all layers", network.everything, TUNED_SHARE)):
        new = network.further(train)
        assert new != network.int8
        outcome = make(*write_pair(tmp_path, network.int8, new), tmp_path / "delta")
        assert outcome.length_bytes <= share * len(new), name
        assert applied((tmp_path / "delta").read_bytes(), network.int8) == new
