"""Real children that time real models, and models that are up to something."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.core.plan import MeasureRequest
from agent.serving.children.measure import run_measurement
from agent.serving.children.measure_child import percentile, sample_inputs
from shared.manifest import digest
from shared.runtime.interpreter import LiteRtInterpreter
from tests.integration.serving.test_trial import children
from tests.support import models
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

GOOD = models.one_hot_classifier()
LARGE = models.random_classifier(2000, 2000, seed=1)
PLENTY = 2 * 1024**3


def request(folder: Path, model: bytes, *, deadline_s: float = 12.0, max_memory_bytes: int = PLENTY) -> MeasureRequest:
    path = folder / "model.tflite"
    path.write_bytes(model)
    return MeasureRequest(
        path=str(path), sha256=digest(model), max_memory_bytes=max_memory_bytes, deadline_s=deadline_s
    )


async def test_model_is_measured_by_both_clocks_and_its_own_memory(tmp_path: Path) -> None:
    result = await run_measurement(request(tmp_path, LARGE))
    figures = result.figures
    assert figures is not None, result.reason
    assert figures.runs >= 40
    assert 0 < figures.cpu_p50_ms <= figures.cpu_p95_ms
    assert 0 < figures.wall_p50_ms <= figures.wall_p95_ms
    # The file, the runtime's copy of its weights, and not the runtime itself.
    assert len(LARGE) < figures.peak_memory_bytes < 5 * len(LARGE)


async def test_larger_model_takes_longer_and_more_memory(tmp_path: Path) -> None:
    small = (await run_measurement(request(tmp_path, GOOD))).figures
    large = (await run_measurement(request(tmp_path, LARGE))).figures
    assert small is not None
    assert large is not None
    assert small.cpu_p50_ms < large.cpu_p50_ms
    assert small.peak_memory_bytes < large.peak_memory_bytes


async def test_slow_model_is_measured_fewer_times_within_the_deadline(tmp_path: Path) -> None:
    result = await run_measurement(request(tmp_path, models.random_classifier(5000, 5000, seed=1), deadline_s=6.0))
    assert result.figures is not None, result.reason
    assert result.figures.runs < 400


async def test_model_that_hangs_is_killed_at_the_deadline(tmp_path: Path) -> None:
    before = children()
    result = await run_measurement(request(tmp_path, LARGE, deadline_s=0.05))
    assert (result.figures, result.reason) == (None, "deadline: no result within 0.05 s")
    assert children() <= before


async def test_model_that_wants_more_memory_than_it_may_have_fails_by_name(tmp_path: Path) -> None:
    result = await run_measurement(request(tmp_path, GOOD, max_memory_bytes=64 * 1024**2))
    assert result.figures is None
    assert result.reason.startswith(("crashed", "memory_exceeded", "model_load_failed"))


async def test_measurement_is_refused_while_the_device_is_short_of_memory(tmp_path: Path) -> None:
    asked = request(tmp_path, GOOD, max_memory_bytes=2**50)
    # A file with a hole: as large as no machine's memory, and no byte on the disk.
    os.truncate(asked.path, 2**42)
    assert (await run_measurement(asked)).reason.startswith("memory_short")


@pytest.mark.parametrize("model", [b"", b"no model at all", GOOD[: len(GOOD) // 2], GOOD[:64] + bytes(len(GOOD) - 64)])
async def test_attack_bytes_that_are_no_model_are_a_failure_by_name(tmp_path: Path, model: bytes) -> None:
    result = await run_measurement(request(tmp_path, model))
    assert result.figures is None
    assert result.reason.startswith("model_load_failed")


async def test_attack_file_exchanged_after_the_fetch_is_not_opened(tmp_path: Path) -> None:
    asked = request(tmp_path, GOOD)
    (tmp_path / "model.tflite").write_bytes(LARGE)
    assert (await run_measurement(asked)).reason.startswith("digest_mismatch")


async def test_cancelled_measurement_leaves_no_child(tmp_path: Path) -> None:
    before = children()
    async with asyncio.TaskGroup() as group:
        measuring = group.create_task(run_measurement(request(tmp_path, LARGE, deadline_s=60.0)))
        await wait_until_async(lambda: children() > before, what="the child runs")
        measuring.cancel()
    assert children() <= before


def test_inputs_are_the_same_each_time_and_no_mere_zeros() -> None:
    interpreter = LiteRtInterpreter(GOOD, threads=1)
    (first,), (again,) = sample_inputs(interpreter), sample_inputs(interpreter)
    assert first.shape == (1, 10)
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert (first > 0).all()


@pytest.mark.parametrize(("share", "expected"), [(0.5, 10.0), (0.95, 19.0), (1.0, 20.0), (0.01, 1.0)])
def test_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(20, 0, -1)], share) == expected
