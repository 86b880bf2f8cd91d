"""A model that names the position of the largest number, pushed to a controller that runs."""

from __future__ import annotations

import asyncio
import io
import platform
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from controller.views import ReleaseView
from shared.dataset import Split
from shared.hardware import HardwareProfile
from shared.ids import HardwareProfileId
from tests.support.datasets import written
from tests.support.models import dense_classifier
from tests.support.operator import Answer, Operator

if TYPE_CHECKING:
    from pathlib import Path

    from controller.demo.world import World

CLASSES = 10
ITEMS = {Split.CALIBRATION: 50, Split.SEARCH: 200, Split.GATE: 400}
ROOMY = HardwareProfile(
    profile_id=HardwareProfileId("roomy"), architectures=(platform.machine(),), max_latency_ms=500.0
)


def dataset(folder: Path) -> Path:
    """Write samples whose class is the position of the largest number."""
    shards = {}
    for seed, (split, count) in enumerate(ITEMS.items()):
        x = np.random.default_rng(seed).random((count, CLASSES)).astype(np.float32)
        file = io.BytesIO()
        np.savez(file, x=x, y=x.argmax(axis=1))
        shards[f"{split}.npz"] = file.getvalue()
    return written(folder, shards)


async def typed(world: World, *words: str) -> Answer:
    operator = Operator(url=world.api_url, token_file=world.token_file, folder=world.folder, columns=160)
    return await asyncio.to_thread(operator.types_in_a_shell, *words)


async def pushed(world: World, *words: str, profile: HardwareProfile = ROOMY, scale: float = 10.0) -> ReleaseView:
    """Convert and release a float `.tflite`; another `scale` is another version, with the same answers."""
    model, described = world.folder / "model.tflite", world.folder / "profile.json"
    weights = np.eye(CLASSES, dtype=np.float32) * scale
    model.write_bytes(dense_classifier(weights, np.zeros(CLASSES, np.float32)))
    described.write_bytes(msgspec.json.encode(profile))
    data = dataset(world.folder / "data")
    options = (f"--data={data}", f"--profile={described}", "--scheme=float32", "--output=json")
    answer = await typed(world, "model", "push", str(model), "--name", "peaks", *options, *words)
    assert answer.code == 0, answer.err
    return answer.read(ReleaseView)
