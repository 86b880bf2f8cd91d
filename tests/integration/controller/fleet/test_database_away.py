"""A database that goes away for a while costs no report, and nothing is acknowledged that is not stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.topics import Channel
from tests.support.database import opened_database
from tests.support.fleet_world import FleetWorld, TestClock, intent, report
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path


async def test_reports_wait_for_the_database_and_are_acknowledged_when_it_is_back(tmp_path: Path) -> None:
    with Postgres() as server:
        async with opened_database(server.create_database(), clock=TestClock()) as database:
            world = FleetWorld(database, TestClock(), tmp_path)
            device = await world.device("cam-1")
            await world.desire(intent(device.device_id))
            server.stop()
            async with asyncio.TaskGroup() as tasks:
                taking = tasks.create_task(world.ingest.take([device.says(Channel.REPORT, report(generation=7))]))
                beating = tasks.create_task(world.pulse.run())
                publishing = tasks.create_task(world.publisher.run())
                await asyncio.wait({taking}, timeout=0.5)
                assert not taking.done()
                assert world.acks(device) == []
                server.start()
                await wait_until_async(lambda: world.acks(device) == [1], within_s=30, what="the report is stored")
                await wait_until_async(lambda: world.retained_for(device), within_s=30, what="loops go on")
                beating.cancel()
                publishing.cancel()
            assert [said.report.generation for said in world.reports.taken] == [7]
