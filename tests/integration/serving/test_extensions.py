"""The model repository and statistics extensions of the Open Inference Protocol."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from agent.core.plan import Plan, Route
from agent.serving.local import LocalLoading
from shared.errors import NotFoundError
from shared.ids import ModelName
from tests.support import models
from tests.support.serving import CANDIDATE, MODEL, infer_body, make_slot, one_hot, plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served

INFER = f"/v2/models/{MODEL}/infer"


async def stats(served: Served, path: str = f"/v2/models/{MODEL}/stats") -> list[dict[str, Any]]:
    status, body = await served.get(path)
    assert status == 200
    found: list[dict[str, Any]] = body["model_stats"]
    return found


async def index(served: Served, body: bytes = b"") -> object:
    status, data, _ = await served.post_raw("/v2/repository/index", body)
    assert status == 200
    return json.loads(data)


async def test_index_names_every_version_that_answers_and_why_others_do_not(served: Served, stable: SlotSpec) -> None:
    assert await index(served) == []
    withheld = Route(model=ModelName("withheld"), primary=None, unavailable_reason="no_previous: golden_mismatch")
    plan = plan_of(stable)
    await served.engine.apply(Plan(serial=1, slots=plan.slots, routes=(*plan.routes, withheld)))
    ready = {"name": MODEL, "version": "4", "state": "READY", "reason": ""}
    other = {
        "name": "withheld",
        "version": "",
        "state": "UNAVAILABLE",
        "reason": "no_previous: golden_mismatch",
    }
    assert await index(served) == [ready, other]
    assert await index(served, b'{"ready": false}') == [ready, other]
    assert await index(served, b'{"ready": true}') == [ready]


async def test_index_of_a_broken_question_says_what_to_send(served: Served) -> None:
    status, body, _ = await served.post("/v2/repository/index", b'{"ready": 3}')
    assert (status, body["reason"]) == (400, "invalid_input")
    assert '{"ready": true}' in body["error"]


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_model_of_a_fleet_is_loaded_and_unloaded_by_its_desired_alone(
    served: Served, stable: SlotSpec, verb: str
) -> None:
    await served.engine.apply(plan_of(stable))
    status, body, _ = await served.post(f"/v2/repository/models/{MODEL}/{verb}", b"")
    assert (status, body["reason"]) == (403, "not_allowed")
    assert "Desired" in body["error"]
    assert (await served.get("/v2/health/ready"))[0] == 200


async def test_loading_otherwise_than_is_done_is_refused_and_not_ignored(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    status, body, _ = await served.post(f"/v2/repository/models/{MODEL}/load", b'{"parameters": {"config": "{}"}}')
    assert (status, body["reason"]) == (400, "invalid_input")
    assert "config" in body["error"]
    dependents = b'{"parameters": {"unload_dependents": true}}'
    assert (await served.post(f"/v2/repository/models/{MODEL}/unload", dependents))[0] == 403


async def test_local_model_is_unloaded_and_loaded_again(served: Served, stable: SlotSpec) -> None:
    plan = plan_of(stable)
    await served.engine.apply(plan)
    loading = LocalLoading(served.engine, plan)
    await loading.unload(MODEL)
    status, body, _ = await served.post(INFER, infer_body(one_hot(3)))
    assert (status, body["reason"]) == (503, "unloaded")
    assert await index(served) == [{"name": MODEL, "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}]
    await loading.load(MODEL)
    assert (await served.post(INFER, infer_body(one_hot(3))))[0] == 200
    with pytest.raises(NotFoundError):
        await loading.load(ModelName("nobody"))


async def test_statistics_count_items_runs_and_where_the_time_went(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan_of(stable))
    [before] = await stats(served)
    assert (before["name"], before["version"], before["last_inference"]) == (MODEL, "4", 0)
    began_ms = time.time() * 1000  # noqa: TID251 - what a caller compares it with
    for rows in (1, 3):
        assert (await served.post(INFER, infer_body(*[one_hot(3)] * rows)))[0] == 200
    assert (await served.post(INFER, infer_body([1.0] * 9)))[0] == 400
    [after] = await stats(served)
    # The model takes one item at a time: three of them are three runs.
    assert (after["inference_count"], after["execution_count"]) == (4, 4)
    assert abs(after["last_inference"] - began_ms) < 20_000
    spent = after["inference_stats"]
    assert {kind: each["count"] for kind, each in spent.items()} == {
        "success": 2,
        "fail": 1,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    parts = sum(spent[kind]["ns"] for kind in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert spent["success"]["ns"] == pytest.approx(parts, abs=100)
    assert spent["compute_infer"]["ns"] > 0
    assert spent["fail"]["ns"] > 0


async def test_statistics_of_two_versions_are_kept_apart(served: Served, stable: SlotSpec, tmp_path: Path) -> None:
    other = make_slot(tmp_path, models.one_hot_classifier(shift=1), release=CANDIDATE, version=5)
    await served.engine.apply(plan_of(other, stable, candidate=CANDIDATE))
    await served.post(f"/v2/models/{MODEL}/versions/4/infer", infer_body(one_hot(3)))
    for path in ("/v2/models/stats", f"/v2/models/{MODEL}/stats"):
        counted = {each["version"]: each["inference_count"] for each in await stats(served, path)}
        assert counted == {"5": 0, "4": 1}
    assert [each["version"] for each in await stats(served, f"/v2/models/{MODEL}/versions/4/stats")] == ["4"]
    assert (await served.get(f"/v2/models/{MODEL}/versions/6/stats"))[0] == 404
    assert (await served.get("/v2/models/nobody/stats"))[0] == 404
