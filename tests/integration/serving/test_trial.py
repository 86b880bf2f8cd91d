from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from agent.core.plan import TrialRequest
from agent.serving.children.trial import run_trial
from shared.manifest import GoldenCheck
from shared.pipeline import DecodeImage, PipelineSpec, RunModel, TopLabels
from tests.support import models
from tests.support.serving import make_slot
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from agent.core.plan import SlotSpec

GOOD = models.one_hot_classifier()
PLENTY = 2 * 1024**3


def request(slot: SlotSpec, **changes: object) -> TrialRequest:
    made = TrialRequest(folder=slot.folder, max_memory_bytes=PLENTY, deadline_s=30.0)
    return msgspec.structs.replace(made, **changes)


def children() -> set[int]:
    """The processes that this one has started."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.add(int(stat.parent.name))
    return found


async def test_good_release_passes_with_what_was_measured(tmp_path: Path) -> None:
    result = await run_trial(request(make_slot(tmp_path, GOOD)))
    assert (result.passed, result.reason, result.golden_cases) == (True, "", 4)
    assert 0 < result.latency_p50_ms < 100
    assert 20 * 1024**2 < result.peak_memory_bytes < 200 * 1024**2


async def test_release_that_answers_otherwise_than_where_it_was_made_fails(tmp_path: Path) -> None:
    lie = models.golden_check(models.one_hot_classifier(shift=1))
    result = await run_trial(request(make_slot(tmp_path, GOOD, golden=lie)))
    assert not result.passed
    assert re.fullmatch(r"golden_mismatch: case 0 output 0 differs by 0\.\d+", result.reason)


async def test_release_without_golden_cases_fails(tmp_path: Path) -> None:
    nothing = GoldenCheck(cases=(), atol=0.0, rtol=0.0)
    result = await run_trial(request(make_slot(tmp_path, GOOD, golden=nothing)))
    assert result.reason.startswith("golden_mismatch")


async def test_slow_release_fails_by_its_budget(tmp_path: Path) -> None:
    slot = make_slot(tmp_path, models.random_classifier(2000, 2000, seed=1))
    result = await run_trial(request(slot, max_latency_ms=0.001))
    assert not result.passed
    assert result.reason.startswith("too_slow")


async def test_runaway_trial_is_killed_at_its_deadline(tmp_path: Path) -> None:
    # Seconds of golden cases, in a trial that gets a fraction of one.
    model = models.random_classifier(3000, 3000, seed=1)
    slot = make_slot(tmp_path, model, golden=_repeated(models.golden_check(model, cases=1), 20))
    before = children()
    result = await run_trial(request(slot, deadline_s=0.3))
    assert not result.passed
    assert result.reason == "deadline: no result within 0.3 s"
    assert children() <= before


async def test_trial_that_wants_more_memory_than_it_may_have_fails(tmp_path: Path) -> None:
    result = await run_trial(request(make_slot(tmp_path, GOOD), max_memory_bytes=64 * 1024**2))
    assert not result.passed
    assert result.reason.startswith(("crashed", "memory_exceeded", "model_load_failed"))


async def test_trial_is_refused_while_the_device_is_short_of_memory(tmp_path: Path) -> None:
    slot = make_slot(tmp_path, GOOD)
    # A file with a hole: as large as no machine's memory, and no byte on the disk.
    os.truncate(Path(slot.folder) / "model.tflite", 2**42)
    result = await run_trial(request(slot, max_memory_bytes=2**50))
    assert not result.passed
    assert result.reason.startswith("memory_short")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("model.tflite", "untrusted"), ("manifest.json", "untrusted"), (None, "model_load_failed")],
)
async def test_damaged_or_missing_release_fails_without_a_crash(
    tmp_path: Path, damage: str | None, reason: str
) -> None:
    slot = make_slot(tmp_path, GOOD)
    if damage is None:
        slot = msgspec.structs.replace(slot, folder=f"{slot.folder}-gone")
    else:
        (Path(slot.folder) / damage).write_bytes(b"not what it was")
    result = await run_trial(request(slot))
    assert not result.passed
    assert result.reason.startswith(reason)


async def test_pipeline_that_does_not_fit_its_model_fails(tmp_path: Path) -> None:
    spec = PipelineSpec(steps=(DecodeImage(), RunModel(), TopLabels(count=1)), labels=("only", "two"))
    result = await run_trial(request(make_slot(tmp_path, GOOD, pipeline=spec)))
    assert result.reason.startswith("pipeline_failed: the pipeline names 2 labels")


async def test_cancelled_trial_leaves_no_child(tmp_path: Path) -> None:
    before = children()
    model = models.random_classifier(3000, 3000, seed=1)
    slot = make_slot(tmp_path, model, golden=_repeated(models.golden_check(model, cases=1), 20))
    async with asyncio.TaskGroup() as group:
        trial = group.create_task(run_trial(request(slot)))
        await wait_until_async(lambda: children() > before, what="the child runs")
        trial.cancel()
    assert children() <= before


def _repeated(golden: GoldenCheck, times: int) -> GoldenCheck:
    assert np.isfinite(golden.atol)
    return msgspec.structs.replace(golden, cases=golden.cases * times)
