"""The device side of the controller on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.database import opened_database
from tests.support.fleet_world import FleetWorld, TestClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def clock() -> TestClock:
    """A clock that stands still."""
    return TestClock()


@pytest_asyncio.fixture
async def world(database_url: str, clock: TestClock, tmp_path: Path) -> AsyncIterator[FleetWorld]:
    """A controller without devices, on each of the two databases."""
    async with opened_database(database_url, clock=clock) as database:
        yield FleetWorld(database, clock, tmp_path)
