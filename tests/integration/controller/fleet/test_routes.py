"""Devices over the operator's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest_asyncio

from controller.fleet.routes import endpoints
from shared.ids import DeviceId
from shared.topics import Channel
from tests.support.api import served_api
from tests.support.fleet_world import FleetWorld, heartbeat, intent, report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

Answer = dict[str, object]


@pytest_asyncio.fixture
async def api(world: FleetWorld) -> AsyncIterator[aiohttp.ClientSession]:
    """The API, and a client with the operator's token."""
    async with served_api(endpoints(world.fleet)) as session:
        yield session


async def call(api: aiohttp.ClientSession, method: str, path: str, body: Answer | None = None) -> tuple[int, Answer]:
    """Call an operation, and return status and answer."""
    async with api.request(method, f"/api/v1{path}", json=body) as response:
        return response.status, cast("Answer", await response.json()) if response.status != 204 else {}


async def test_device_registered_over_the_api_returns_its_invite_once(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    status, invite = await call(
        api, "POST", "/devices", {"device_id": "cam-1", "site": "north", "labels": {"line": "a"}}
    )
    assert status == 201
    assert invite["controller_url"] == "https://127.0.0.1:8471"
    assert invite["ca_pem"] == world.fleet.ca_pem.decode()
    assert len(str(invite["token"])) == 43
    _, shown = await call(api, "GET", "/devices/cam-1")
    assert (shown["enrolled"], shown["explanation"]) == (False, "invited, but not enrolled yet")
    assert str(invite["token"]) not in str(shown)


async def test_device_shown_tells_desired_beside_reported(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    device = await world.device("cam-1", labels={"line": "a"})
    await world.desire(intent(device.device_id))
    await world.ingest.take([device.says(Channel.REPORT, report()), device.says(Channel.HEARTBEAT, heartbeat())])
    status, shown = await call(api, "GET", "/devices/cam-1")
    assert status == 200
    assert {key: shown[key] for key in ("generation", "observed_generation", "desired", "labels", "architecture")} == {
        "generation": 1,
        "observed_generation": 0,
        "desired": {"digits": "r1"},
        "labels": {"line": "a"},
        "architecture": "aarch64",
    }
    assert shown["explanation"] == "generation 1 is about to be published, the device has accepted 0"


async def test_devices_are_listed_in_pages(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    for number in range(5):
        await world.device(f"cam-{number}")
    found: list[str] = []
    path = "/devices?query=site=north&limit=2"
    after: object = ""
    while after is not None:
        _, page = await call(api, "GET", path + (f"&after={after}" if after else ""))
        found += [str(item["device_id"]) for item in cast("list[Answer]", page["items"])]
        after = page["next"]
    assert found == [f"cam-{number}" for number in range(5)]


async def test_devices_listed_by_an_unknown_label_are_refused(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    await world.device("cam-1", labels={"line": "a"})
    status, problem = await call(api, "GET", "/devices?query=lien=a")
    assert (status, problem["reason"]) == (422, "invalid_input")
    assert "known keys: device, site, arch, line" in str(problem["detail"])


async def test_device_labelled_and_removed_over_the_api(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    await world.device("cam-1", labels={"line": "a"})
    status, shown = await call(api, "PATCH", "/devices/cam-1", {"labels": {"floor": "2"}})
    assert (status, shown["labels"]) == (200, {"floor": "2"})
    assert (await call(api, "DELETE", "/devices/cam-1"))[0] == 204
    status, problem = await call(api, "DELETE", "/devices/cam-1")
    assert (status, problem["reason"]) == (404, "not_found")
    _, page = await call(api, "GET", "/devices")
    assert page["items"] == []
    assert await world.fleet.count() == 0


async def test_device_enrolled_and_registered_again_is_a_conflict(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    await world.device("cam-1")
    status, problem = await call(api, "POST", "/devices", {"device_id": "cam-1"})
    assert (status, problem["reason"]) == (409, "conflict")


async def test_device_that_nobody_knows_is_not_found(api: aiohttp.ClientSession) -> None:
    for method, body in (("GET", None), ("PATCH", {"labels": {}}), ("DELETE", None)):
        status, _ = await call(api, method, "/devices/ghost", cast("Answer | None", body))
        assert status == 404


async def test_device_with_a_wish_and_no_key_shows_it(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    await call(api, "POST", "/devices", {"device_id": "cam-1"})
    await world.desire(intent(DeviceId("cam-1")))
    _, shown = await call(api, "GET", "/devices/cam-1")
    assert (shown["enrolled"], shown["desired"]) == (False, {"digits": "r1"})
