"""The agent where LiteRT has no wheel: tflite-runtime 2.14 behind the same code, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from agent.core.plan import Plan, Route
from agent.serving.models.lane import Lane
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared.pipeline import (
    MODEL_ONLY,
    ColourMode,
    DecodeImage,
    Normalise,
    PipelineSpec,
    ResizeImage,
    RunModel,
    TopLabels,
)
from shared.runtime.interpreter import LiteRtInterpreter
from tests.bench.serving_models import slot
from tests.support import models
from tests.support.clients import environment

if TYPE_CHECKING:
    from agent.serving.requests import Request

ROOT = Path(__file__).parents[3]
LABELS = tuple("abcdefghij")
IMAGES = PipelineSpec(
    steps=(
        DecodeImage(colour=ColourMode.GREY),
        ResizeImage(height=2, width=5),
        Normalise(scale=1 / 255),
        RunModel(),
        TopLabels(count=3),
    ),
    labels=LABELS,
)
# Slow enough that it is run in threads, and many times as fast in a batch: weights are read once for all rows.
WIDE = models.random_classifier(1024, 1024, seed=2, batch=-1)
MODELS = {
    "small": (models.random_classifier(10, 10, seed=1), MODEL_ONLY),
    "wide": (WIDE, MODEL_ONLY),
    "images": (models.random_classifier(10, 10, seed=3, input_shape=(2, 5, 1)), IMAGES),
}


def _picture(folder: Path) -> Path:
    path = folder / "picture.jpg"
    pixels = np.random.default_rng(4).integers(0, 256, (40, 50)).astype(np.uint8)
    Image.fromarray(pixels, "L").save(path, quality=90)
    return path


def _asked(folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    wide = [{"model": "wide", "dtype": "float32", "rows": rng.random((1, 1024)).round(3).tolist()} for _ in range(12)]
    small = {"model": "small", "dtype": "float32", "rows": rng.random((3, 10)).round(3).tolist()}
    return [small, {"model": "images", "image": str(_picture(folder))}, *wide]


def _expected(asked: dict[str, Any]) -> tuple[list[list[Any]], str, list[str]]:
    """What the newer runtime answers in this process."""
    model, pipeline = MODELS[asked["model"]]
    request: Request
    if "image" in asked:
        request = ClassifyRequest(encoded=Path(asked["image"]).read_bytes())
    else:
        request = InferRequest(inputs=(NamedTensor(name="x", array=np.array(asked["rows"], np.float32)),))
    outcome = Lane(pipeline, LiteRtInterpreter(model, threads=1)).run(request)
    numbers = [each.array.tolist() for each in outcome.outputs if each.array.dtype.kind in "biuf"]
    return numbers, outcome.top, [each.label for each in outcome.labels]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the agent's code answered in the old environment, with what was asked."""
    folder = tmp_path_factory.mktemp("old")
    slots = tuple(slot(folder, name, model, pipeline) for name, (model, pipeline) in MODELS.items())
    plan = Plan(serial=1, slots=slots, routes=tuple(Route(model=each.model, primary=each.release_id) for each in slots))
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    asked = _asked(folder)
    (folder / "asked.json").write_text(json.dumps(asked))
    script = ROOT / "tests" / "support" / "outside" / "old_runtime_agent.py"
    files = [str(script), str(folder / "plan.json"), str(folder / "asked.json")]
    ended = subprocess.run(
        [str(environment("old_runtime") / "python"), "-W", "error", *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told | {"asked": asked}


def test_old_runtime_is_the_one_that_runs(found: dict[str, Any]) -> None:
    assert found["runtime"] == "tflite-runtime 2.14.0"
    assert found["numpy"].startswith("1.")


def test_old_runtime_loads_and_probes_every_model(found: dict[str, Any]) -> None:
    for each in found["slots"]:
        assert each["loaded"], each["error"]
        assert each["probe"]["by_threads"][0]["p50_ms"] > 0
    wide = next(each["probe"] for each in found["slots"] if each["model"] == "wide")
    assert [each["batch"] for each in wide["by_batch"]][:2] == [1, 4]


@pytest.mark.parametrize("way", ["alone", "together"])
def test_old_runtime_answers_what_the_new_one_answers(found: dict[str, Any], way: str) -> None:
    for asked, answered in zip(found["asked"], found[way], strict=True):
        numbers, top, labels = _expected(asked)
        for ours, theirs in zip(answered["numbers"], numbers, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        assert (answered["top"], answered["labels"]) == (top, labels)


def test_old_runtime_answers_requests_that_wait_in_one_batch_where_that_pays(found: dict[str, Any]) -> None:
    wide = next(each["probe"] for each in found["slots"] if each["model"] == "wide")
    batches = [each["batch"] for each in found["together"] if each["model"] == "wide"]
    assert max(batches) > 1 if wide["batches"] else max(batches) == 1
