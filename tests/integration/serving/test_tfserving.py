from __future__ import annotations

import base64
import io
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from agent.serving.callers.access import Access
from agent.serving.callers.in_flight import Traffic
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.protocols import tfserving
from agent.serving.protocols.api import create_app
from shared.ids import BootId
from shared.pipeline import ColourMode, DecodeImage, Normalise, PipelineSpec, ResizeImage, RunModel, TopLabels
from tests.support import models
from tests.support.ports import LOOPBACK
from tests.support.serving import CANDIDATE, MODEL, make_slot, one_hot, plan_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LABELS = tuple("abcdefghij")
IMAGES = (DecodeImage(colour=ColourMode.GREY), ResizeImage(height=1, width=10), Normalise(scale=1 / 255))


class Served:
    """TensorFlow Serving's API over a real engine, and a client."""

    def __init__(self, engine: Engine, session: aiohttp.ClientSession, url: str) -> None:
        self.engine, self._session, self._url = engine, session, url

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self._session.get(f"{self._url}/v1/models/{path}") as reply:
            return reply.status, await reply.json(content_type=None)

    async def post(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        async with self._session.post(f"{self._url}/v1/models/{path}", data=json.dumps(body)) as reply:
            return reply.status, await reply.json(content_type=None)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=open_litert))
    await engine.apply(plan_of(make_slot(tmp_path, models.one_hot_classifier(), version=4)))
    runner = web.AppRunner(create_app(tfserving.routes(engine), Traffic(), Access(engine)), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    async with aiohttp.ClientSession() as session:
        yield Served(engine, session, f"http://{LOOPBACK}:{runner.addresses[0][1]}")
    await runner.cleanup()
    await engine.close()


async def test_status_names_the_versions_that_answer(served: Served) -> None:
    status, body = await served.get(MODEL)
    assert status == 200
    assert [(each["version"], each["state"]) for each in body["model_version_status"]] == [("4", "AVAILABLE")]
    assert body["model_version_status"][0]["status"] == {"error_code": "OK", "error_message": ""}


async def test_metadata_describes_inputs_and_outputs(served: Served) -> None:
    status, body = await served.get(f"{MODEL}/versions/4/metadata")
    signature = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    (described,) = signature["inputs"].values()
    assert (status, described["dtype"]) == (200, "DT_FLOAT")
    assert [each["size"] for each in described["tensor_shape"]["dim"]][1:] == ["10"]
    assert body["model_spec"]["version"] == "4"


@pytest.mark.parametrize("form", ["rows", "named rows", "columns", "named columns"])
async def test_predict_answers_in_the_format_of_the_request(served: Served, form: str) -> None:
    rows = [one_hot(3), one_hot(7)]
    bodies: dict[str, object] = {
        "rows": {"instances": rows},
        "named rows": {"instances": [{"x": row} for row in rows]},
        "columns": {"inputs": rows},
        "named columns": {"inputs": {"x": rows}},
    }
    status, answer = await served.post(f"{MODEL}:predict", bodies[form])
    predictions = answer["outputs" if "columns" in form else "predictions"]
    assert status == 200
    assert np.argmax(predictions, axis=1).tolist() == [3, 7]


async def test_classify_gives_labels_with_scores_for_each_example(served: Served) -> None:
    examples = [{"x": one_hot(2)}, {"x": one_hot(5)}]
    status, body = await served.post(f"{MODEL}:classify", {"examples": examples})
    best = [max(result, key=lambda pair: pair[1])[0] for result in body["results"]]
    assert (status, best) == (200, ["2", "5"])


async def test_regress_of_a_classifier_is_refused(served: Served) -> None:
    status, body = await served.post(f"{MODEL}:regress", {"examples": [{"x": one_hot(2)}]})
    assert (status, "no regression" in body["error"]) == (400, True)


async def test_images_are_answered_one_by_one(served: Served, tmp_path: Path) -> None:
    pipeline = PipelineSpec(steps=(*IMAGES, RunModel(), TopLabels(count=2)), labels=LABELS)
    model = models.one_hot_classifier(input_shape=(1, 10, 1))
    slot = make_slot(tmp_path / "img", model, release=CANDIDATE, pipeline=pipeline)
    await served.engine.apply(plan_of(slot))
    instances = [{"b64": base64.b64encode(_picture(place)).decode()} for place in (6, 1)]
    status, body = await served.post(f"{MODEL}:predict", {"instances": instances})
    assert (status, np.argmax(body["predictions"], axis=1).tolist()) == (200, [6, 1])


async def test_label_names_only_what_is_loaded_and_may_answer(served: Served, tmp_path: Path) -> None:
    stable = make_slot(tmp_path / "a", models.one_hot_classifier(), version=4)
    candidate = make_slot(tmp_path / "b", models.one_hot_classifier(), release=CANDIDATE, version=5)
    await served.engine.apply(plan_of(stable, candidate, candidate=CANDIDATE, serial=2))
    in_shadow, _ = await served.get(f"{MODEL}/labels/canary")
    await served.engine.apply(plan_of(candidate, stable, candidate=CANDIDATE, serial=3))
    _, canary = await served.get(f"{MODEL}/labels/canary")
    _, stable_now = await served.get(f"{MODEL}/labels/stable")
    versions = [each["model_version_status"][0]["version"] for each in (canary, stable_now)]
    assert (in_shadow, versions) == (404, ["5", "4"])


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("nobody:predict", {"instances": [[1]]}, (404, "nobody")),
        (f"{MODEL}/versions/9:predict", {"instances": [[1]]}, (404, "9")),
        (f"{MODEL}/labels/beta:predict", {"instances": [[1]]}, (404, "beta")),
        (f"{MODEL}:predict", {}, (400, "instances")),
        (f"{MODEL}:predict", {"instances": [[1]], "inputs": [[1]]}, (400, "one of the two")),
        (f"{MODEL}:predict", {"instances": []}, (400, "none")),
        (f"{MODEL}:predict", {"instances": [[1, 2], [3]]}, (400, "regular")),
        (f"{MODEL}:predict", {"instances": [["a"] * 10]}, (400, "float32")),
        (f"{MODEL}:predict", {"instances": [{"b64": "%%"}]}, (400, "base64")),
        (f"{MODEL}:predict", {"inputs": {"a": [[1]], "b": [[1]]}}, (400, "the model takes")),
        (f"{MODEL}:predict", {"instances": [one_hot(1)], "signature_name": "train"}, (400, "train")),
        (f"{MODEL}:predict", [], (400, "JSON")),
        (f"{MODEL}:classify", {"examples": []}, (400, "none")),
    ],
)
async def test_refusals_say_why_where_clients_look(
    served: Served, path: str, body: object, expected: tuple[int, str]
) -> None:
    status, answer = await served.post(path, body)
    assert (status, expected[1] in answer["error"]) == (expected[0], True), answer


def _picture(position: int) -> bytes:
    image = Image.new("L", (10, 1))
    image.putpixel((position, 0), 255)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
