"""Traffic on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from controller.fleet.routes import endpoints as fleet_endpoints
from controller.traffic.routes import endpoints
from tests.support.api import served_api
from tests.support.database import opened_database
from tests.support.fleet_world import FleetWorld, TestClock
from tests.support.traffic_world import traffic_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from controller.traffic.service import TrafficService


@pytest.fixture
def clock() -> TestClock:
    """A clock that stands still."""
    return TestClock()


@pytest_asyncio.fixture
async def world(database_url: str, clock: TestClock, tmp_path: Path) -> AsyncIterator[FleetWorld]:
    """A controller without devices, on each of the two databases."""
    async with opened_database(database_url, clock=clock) as database:
        yield FleetWorld(database, clock, tmp_path)


@pytest.fixture
def traffic(world: FleetWorld) -> TrafficService:
    """What operators set."""
    return traffic_of(world)


@pytest_asyncio.fixture
async def api(world: FleetWorld, traffic: TrafficService) -> AsyncIterator[aiohttp.ClientSession]:
    """The API, and a client with the operator's token."""
    async with served_api([*endpoints(traffic), *fleet_endpoints(world.fleet)]) as session:
        yield session
