"""Models that loop, swell, answer NaN or are damaged end in the throw-away child, by name; serving never notices."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from agent.core.plan import TrialRequest
from agent.serving.children.trial import run_trial
from agent.serving.models.loading import load_slot, open_litert
from converters.environments import Environment
from shared import manifest
from shared.errors import DigestMismatchError
from shared.ids import ReleaseId
from shared.manifest import GoldenCase, GoldenCheck
from shared.runtime.golden import to_tensor_data
from tests.support import models
from tests.support.drawn_networks import convolutional
from tests.support.mutants import mutants
from tests.support.serving import MODEL, infer_body, make_slot, one_hot, plan_of
from tests.support.workers import run_maker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.core.plan import SlotSpec, TrialResult
    from shared.runtime.interpreter import Interpreter
    from tests.support.inference_api import Served

ALL = 500
TRIED = min(ALL, int(os.environ.get("LITEFLEET_TRIALS", "60")))
"""Of the damaged files, so many are tried in a child each; `make full` tries them all."""
AT_ONCE = 3
REASONS = {"model_load_failed", "golden_mismatch", "model_failed"}
PLENTY = 2 * 1024**3


def trial_of(slot: SlotSpec, **changes: object) -> TrialRequest:
    made = TrialRequest(folder=slot.folder, max_memory_bytes=PLENTY, deadline_s=30.0)
    return msgspec.structs.replace(made, **changes)


def nan_model() -> bytes:
    weights = np.full((10, 10), np.nan, np.float32)
    return models.dense_classifier(weights, np.zeros(10, np.float32))


def zeros_check() -> GoldenCheck:
    zeros = to_tensor_data(np.zeros((1, 10), np.float32))
    return GoldenCheck(cases=(GoldenCase(inputs=(zeros,), outputs=(zeros,)),), atol=1e-4, rtol=1e-4)


async def test_model_that_answers_nan_fails_even_where_it_was_made_so(tmp_path: Path) -> None:
    made_so = models.golden_check(nan_model(), cases=1)
    result = await run_trial(trial_of(make_slot(tmp_path, nan_model(), golden=made_so)))
    assert (result.passed, result.reason) == (False, "golden_mismatch: case 0 output 0 holds NaN or infinity")


async def test_model_that_loops_for_ever_is_killed_at_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "loop.tflite"
    await asyncio.to_thread(run_maker, Environment.TF, "endless_loop", str(path))
    slot = make_slot(tmp_path, path.read_bytes(), golden=zeros_check())
    result = await run_trial(trial_of(slot, deadline_s=2.0))
    assert (result.passed, result.reason) == (False, "deadline: no result within 2 s")


async def test_no_damaged_file_is_interpreted_by_a_serving_that_goes_on_answering(
    served: Served, stable: SlotSpec, tmp_path: Path
) -> None:
    await served.engine.apply(plan_of(stable))
    model = convolutional()
    slot = make_slot(tmp_path, model, release=ReleaseId("signed"), version=2)
    opened = 0

    def count(content: bytes, threads: int) -> Interpreter:
        nonlocal opened
        opened += 1
        return open_litert(content, threads)

    for number, damaged in enumerate(mutants(model, ALL, seed=5)):
        (Path(slot.folder) / "model.tflite").write_bytes(damaged)
        if damaged == model:
            continue
        with pytest.raises(DigestMismatchError):
            load_slot(slot, cores=1, open_interpreter=count)
        if number % 50 == 0:
            applied = await served.engine.apply(plan_of(stable, slot, serial=number + 2, candidate=slot.release_id))
            assert [state.loaded for state in applied.slots] == [True, False]
            status, _, _ = await served.post(f"/v2/models/{MODEL}/infer", infer_body(one_hot(3)))
            assert status == 200
    assert opened == 0


@pytest.mark.timeout(120 + 3 * TRIED)
async def test_damaged_files_that_were_signed_end_in_the_child_with_a_reason(
    served: Served, stable: SlotSpec, tmp_path: Path
) -> None:
    await served.engine.apply(plan_of(stable))
    model = convolutional()
    golden = models.golden_check(model)
    slots = [
        _signed_as_it_is(make_slot(tmp_path, model, release=ReleaseId(f"damaged-{number}"), golden=golden), damaged)
        for number, damaged in enumerate(itertools.islice(_changed(model), TRIED))
    ]
    gate = asyncio.Semaphore(AT_ONCE)

    async def tried(slot: SlotSpec) -> TrialResult:
        async with gate:
            return await run_trial(trial_of(slot))

    async with asyncio.TaskGroup() as group:
        trials = [group.create_task(tried(slot)) for slot in slots]
    results = [trial.result() for trial in trials]
    status, _, _ = await served.post(f"/v2/models/{MODEL}/infer", infer_body(one_hot(3)))
    assert status == 200
    refused = [result.reason for result in results if not result.passed]
    unknown = [reason for reason in refused if reason.split(":")[0] not in REASONS]
    assert not unknown
    # What passes answers as the undamaged model does: its damage means nothing. Most damage must mean something.
    assert len(refused) > TRIED // 3


def _signed_as_it_is(slot: SlotSpec, damaged: bytes) -> SlotSpec:
    """The release as its makers would have signed it if the file had been damaged before."""
    folder = Path(slot.folder)
    made = manifest.decode((folder / "manifest.json").read_bytes())
    artifact = msgspec.structs.replace(made.artifacts[0], sha256=manifest.digest(damaged), length_bytes=len(damaged))
    signed = manifest.encode(msgspec.structs.replace(made, artifacts=(artifact,)))
    (folder / "model.tflite").write_bytes(damaged)
    (folder / "manifest.json").write_bytes(signed)
    return msgspec.structs.replace(slot, artifact_sha256=artifact.sha256, manifest_sha256=manifest.digest(signed))


def _changed(model: bytes) -> Iterable[bytes]:
    return (damaged for damaged in mutants(model, 10 * ALL, seed=6) if damaged != model)
