"""What deltas save and cost: `python -m tests.bench.deltas`. Not run by the tests.

A small network on scikit-learn's digits, trained further in several ways and made int8 by TensorFlow's converter; and
putting together files of random weights, by size, in the device's child process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from agent.delivery.delta import RebuildRequest
from agent.delivery.rebuilding import answer
from converters.delta import make, write
from shared.delta import DeltaEncoding
from shared.wire import TargetRef
from tests.support.deltas import digest_of, peak_kib, tuned, weights, write_pair
from tests.support.digit_network import DigitNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras

_MEGABYTE = 1_000_000
_TRIES = 5


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        networks(Path(folder))
        for size in (5, 20):
            for encoding in DeltaEncoding:
                applying(Path(folder), size * _MEGABYTE, encoding)


def networks(folder: Path) -> None:
    """Print what deltas between versions of a real network take."""
    import keras

    network = DigitNetwork()

    def further(model: keras.Model, *, optimizer: keras.Optimizer, epochs: int) -> None:
        network.train(model, optimizer, slice(1_000, 1_500), epochs=epochs)

    ways: dict[str, Callable[[keras.Model], None]] = {
        "head, Adam 1e-3, 3 epochs": network.head,
        "all layers, SGD 1e-3, 1 epoch": network.everything,
        "all layers, Adam 1e-5, 1 epoch": partial(further, optimizer=keras.optimizers.Adam(1e-5), epochs=1),
        "all layers, Adam 1e-4, 1 epoch": partial(further, optimizer=keras.optimizers.Adam(1e-4), epochs=1),
        "all layers, Adam 1e-3, 3 epochs": partial(further, optimizer=keras.optimizers.Adam(1e-3), epochs=3),
    }
    for name, way in ways.items():
        new = network.further(way)
        outcome = make(*write_pair(folder, network.int8, new), folder / "delta")
        whole = len(zstandard.ZstdCompressor(level=19).compress(new)) / len(new)
        share = f"{outcome.length_bytes / len(new):.1%} ({outcome.encoding or 'not worth it'})"
        say(f"{name}: {outcome.length_bytes} of {len(new)} bytes, {share}; whole file by zstd -19 {whole:.1%}")


def applying(folder: Path, size: int, encoding: DeltaEncoding) -> None:
    """Print what making and applying a delta of a file of this size takes."""
    old = weights(size)
    new = tuned(old, share=0.1)
    paths = write_pair(folder, old, new)
    begun = time.perf_counter()
    write(encoding, *paths, folder / "delta")
    made_s = time.perf_counter() - begun
    asked = RebuildRequest(
        delta=str(folder / "delta"),
        old=str(paths[0]),
        old_sha256=digest_of(old),
        into=str(folder / "model.tflite"),
        ref=TargetRef(path="artifacts/new", length_bytes=len(new), sha256=digest_of(new)),
        reserve_bytes=0,
        parent=os.getpid(),
    )
    applied_s = min(_timed(asked) for _ in range(_TRIES))
    above_mib = (peak_kib(asked) - peak_kib(None)) / 1024
    say(
        f"{size // _MEGABYTE} MB, {encoding}: made in {made_s:.1f} s, applied in {applied_s:.2f} s "
        f"with {above_mib:.1f} MiB above the idle child"
    )


def _timed(asked: RebuildRequest) -> float:
    begun = time.perf_counter()
    problem = answer(asked).problem
    if problem:
        raise RuntimeError(problem)
    return time.perf_counter() - begun


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
