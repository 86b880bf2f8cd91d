"""Rollouts over HTTP: what callers send and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.rollouts.routes import endpoints
from shared.wire import AssignmentStatus
from tests.support.api import served_api
from tests.support.rollout_ports import V1

if TYPE_CHECKING:
    from tests.integration.controller.rollouts.conftest import World

_BODY = {"release_id": V1, "cohort": "all", "soak_s": 10, "policy": {"min_pairs": 20}}


async def test_plan_names_devices_and_gates_of_each_wave_and_starts_nothing(world: World) -> None:
    world.fleet.add(12)
    async with served_api(endpoints(world.rollouts)) as api:
        async with api.post("/api/v1/rollouts/plan", json=_BODY) as reply:
            plan = await reply.json()
        async with api.get("/api/v1/rollouts") as reply:
            assert (await reply.json())["items"] == []
    assert [wave["devices"] for wave in plan["waves"]] == [1, 2, 9]
    assert [len(wave["device_ids"]) for wave in plan["waves"]] == [1, 2, 9]
    gates = {gate["gate"]: gate for gate in plan["waves"][0]["gates"]}
    assert not gates["failure_guard"]["can_decide"]
    assert not gates["fleet_paired"]["can_decide"]
    assert "too_few_devices" in gates["fleet_paired"]["why"]
    assert "20 of its own requests" in gates["device_paired"]["why"]


async def test_rollout_is_started_shown_paused_resumed_and_aborted(world: World) -> None:
    world.fleet.add(12)
    async with served_api(endpoints(world.rollouts)) as api:
        async with api.post("/api/v1/rollouts", json=_BODY) as reply:
            assert reply.status == 201
            made = await reply.json()
        await world.dispatch.drain()
        path = f"/api/v1/rollouts/{made['rollout_id']}"
        for verb, state in (("pause", "paused"), ("resume", "running")):
            async with api.post(f"{path}/{verb}") as reply:
                assert (await reply.json())["state"] == state
        async with api.get(f"{path}/assignments") as reply:
            (assigned,) = (await reply.json())["items"]
        assert assigned["status"] == "queued"
        async with api.post(f"{path}/abort", json={"mode": "revert"}) as reply:
            assert (await reply.json())["state"] == "rolling_back"
        async with api.post(f"{path}/resume") as reply:
            assert reply.status == 409
            assert "rolling_back" in (await reply.json())["detail"]
        async with api.get(f"{path}/decisions") as reply:
            reasons = [row["reason"] for row in (await reply.json())["items"]]
    assert reasons[0] == "started"
    assert "aborted" in reasons


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"release_id": V1, "waves": ["1", "25%"]}, 422),
        ({"release_id": "release-9"}, 404),
        ({"release_id": V1, "wave": ["1"]}, 422),
        ({"release_id": V1, "policy": {"max_flip_rate": 1.5}}, 422),
        ({"release_id": V1, "on_failure": "explode"}, 422),
    ],
)
async def test_rollout_that_cannot_be_meant_is_a_problem_document(
    world: World, body: dict[str, object], status: int
) -> None:
    world.fleet.add(12)
    async with (
        served_api(endpoints(world.rollouts)) as api,
        api.post("/api/v1/rollouts", json=body) as reply,
    ):
        assert reply.status == status
        assert reply.content_type == "application/problem+json"


async def test_lists_are_read_page_by_page(world: World) -> None:
    world.fleet.add(5)
    rollout = await world.start(waves=("100%",))
    seen: list[str] = []
    async with served_api(endpoints(world.rollouts)) as api:
        after = ""
        while True:
            async with api.get(f"/api/v1/rollouts/{rollout}/assignments?limit=2{after}") as reply:
                page = await reply.json()
            seen += [one["device_id"] for one in page["items"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        async with api.get(f"/api/v1/rollouts/{rollout}/decisions?after=nonsense") as reply:
            assert reply.status == 422
        async with api.get("/api/v1/rollouts/unknown") as reply:
            assert reply.status == 404
    assert seen == [f"d-{n:03d}" for n in range(5)]


async def test_assignments_can_be_read_by_status(world: World) -> None:
    world.fleet.add(5)
    rollout = await world.start(waves=("100%",))
    first, _ = await world.told(rollout)
    await world.send(world.fleet.report(first, AssignmentStatus.SUCCEEDED))
    async with (
        served_api(endpoints(world.rollouts)) as api,
        api.get(f"/api/v1/rollouts/{rollout}/assignments?status=succeeded") as reply,
    ):
        assert [one["device_id"] for one in (await reply.json())["items"]] == [first]
