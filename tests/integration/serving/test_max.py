"""What callers of the Model Asset Exchange's services send and read."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from agent.core.plan import Plan, Route
from shared.ids import ModelName
from tests.support.inference_api import image_slot, picture
from tests.support.serving import MODEL, STABLE, one_hot, plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served


def form(content: bytes, field: str = "image") -> aiohttp.FormData:
    made = aiohttp.FormData()
    made.add_field("comment", "\r\n--not the boundary")
    made.add_field(field, content, filename="photo.png", content_type="image/png")
    return made


async def predict(served: Served, data: aiohttp.FormData | bytes, query: str = "") -> tuple[int, dict[str, object]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}/model/predict{query}", data=data) as reply,
    ):
        return reply.status, await reply.json(content_type=None)


async def test_file_of_a_form_becomes_predictions(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    status, body = await predict(served, form(picture(6)))
    assert (status, body["status"]) == (200, "ok")
    assert isinstance(body["predictions"], list)
    best, second = body["predictions"]
    assert (best["label_id"], best["label"], second["label"]) == ("6", "g", "a")
    assert best["probability"] > 0.9


async def test_image_in_json_is_answered_as_one_in_a_form(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    encoded = json.dumps({"image": base64.b64encode(picture(6)).decode()}).encode()
    assert await predict(served, encoded) == await predict(served, form(picture(6)))


async def test_batch_of_numbers_is_answered_item_by_item(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    status, body = await predict(served, json.dumps({"input": [one_hot(3), one_hot(8)]}).encode())
    assert status == 200
    assert isinstance(body["predictions"], list)
    assert [row.index(max(row)) for row in body["predictions"]] == [3, 8]


async def test_metadata_and_labels_tell_what_is_served(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    status, body = await served.get("/model/metadata")
    assert (status, body["id"], body["type"], body["source"]) == (200, MODEL, "Image Classification", STABLE)
    status, body = await served.get("/model/labels")
    assert (status, body["count"], body["labels"][2]) == (200, 10, {"id": "2", "name": "c"})


async def test_device_with_several_models_asks_which(served: Served, stable: SlotSpec) -> None:
    other = Route(model=ModelName("other"), primary=None, unavailable_reason="withheld")
    plan = plan_of(stable)
    await served.engine.apply(Plan(serial=1, slots=plan.slots, routes=(*plan.routes, other)))
    status, body = await served.get("/model/labels")
    assert status == 400
    assert "?model=" in body["error"]
    assert "digits, other" in body["error"]
    assert await served.get(f"/model/labels?model={MODEL}") == (200, {"count": 0, "labels": []})
    assert (await served.get("/model/labels?model=other"))[0] == 503
    assert (await served.get("/model/labels?model=nobody"))[0] == 404


async def test_device_without_a_plan_says_that_it_starts(served: Served) -> None:
    status, body = await served.get("/model/metadata")
    assert (status, body["reason"]) == (503, "starting")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (form(picture(1), field="photo"), "no such field"),
        (b"{", "image"),
        (b"{}", "one of the two"),
        (b'{"image": "#"}', "base64"),
        (b'{"input": []}', "no item"),
    ],
)
async def test_request_without_what_is_needed_is_told_so(
    served: Served, tmp_path: Path, data: aiohttp.FormData | bytes, said: str
) -> None:
    await served.engine.apply(plan_of(image_slot(tmp_path)))
    status, body = await predict(served, data)
    assert status == 400
    assert said in str(body["error"])
