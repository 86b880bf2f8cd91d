"""Plans swap and revert all the time, and no caller notices: 16 connections to a real serving process."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core.plan import Plan, Route
from agent.serving.planned.link import ServingClient
from tests.support import models
from tests.support.load_generator import Tally, Wish
from tests.support.ports import LOOPBACK
from tests.support.serving import CANDIDATE, MODEL, ROOT, Device, infer_body, make_slot, one_hot, plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.core.plan import SlotSpec

REQUESTS = int(os.environ.get("LITEFLEET_HOT_SWAP_REQUESTS", "20000"))
"""`make full` asks for 100,000."""

REVERT_MS = 50.0
"""Until a device answers from the release before, which is still in memory."""

GOOD = models.one_hot_classifier()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device(tmp_path / "state") as made:
        yield made


def plans(stable: SlotSpec, candidate: SlotSpec) -> list[Plan]:
    """A rollout from shadow to commit, and back: each plan as the agent's core makes it."""
    shadowed = plan_of(stable, candidate, candidate=CANDIDATE)
    answering = Plan(
        serial=1,
        slots=(stable, candidate),
        routes=(
            Route(
                model=MODEL,
                primary=candidate.release_id,
                shadow=stable.release_id,
                candidate=candidate.release_id,
            ),
        ),
    )
    return [plan_of(stable), shadowed, answering, plan_of(candidate), answering, shadowed]


REVERT = 5
"""The place in `plans` where a candidate that answered goes back into the shadow; both are in memory."""


async def swap_until_done(device: Device, turns: list[Plan], asking: asyncio.subprocess.Process) -> list[list[float]]:
    """Put one plan after the other in force while requests run; returns how long those of each place took, in ms."""
    client, took_ms = ServingClient(device.run / "serving.sock"), [list[float]() for _ in turns]
    serial = 1
    while asking.returncode is None:
        serial += 1
        started = time.perf_counter()
        applied = await client.set_plan(msgspec.structs.replace(turns[serial % len(turns)], serial=serial))
        took_ms[serial % len(turns)].append((time.perf_counter() - started) * 1000)
        assert all(slot.loaded for slot in applied.slots)
    await client.close()
    return took_ms


async def ask_while_swapping(device: Device, turns: list[Plan], wish: Wish) -> tuple[Tally, list[list[float]]]:
    """Run the load generator in a process of its own, and swap meanwhile."""
    asking = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.load_generator",
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    async with asyncio.timeout(240), asyncio.TaskGroup() as group:
        swapping = group.create_task(swap_until_done(device, turns, asking))
        told, _ = await asking.communicate(msgspec.json.encode(wish))
    return msgspec.json.decode(told, type=Tally), swapping.result()


@pytest.mark.timeout(300)
def test_no_request_fails_while_plans_swap_and_revert_all_the_time(device: Device) -> None:
    stable = make_slot(device.releases, GOOD)
    candidate = make_slot(device.releases, GOOD, release=CANDIDATE, version=2)
    device.write_boot(plan_of(stable))
    device.start()
    device.wait_ready()
    wish = Wish(
        host=LOOPBACK,
        port=device.port,
        path=f"/v2/models/{MODEL}/infer",
        body=infer_body(one_hot(3)).decode(),
        connections=16,
        count=REQUESTS,
    )
    tally, took_ms = asyncio.run(ask_while_swapping(device, plans(stable, candidate), wish))
    assert tally.failures == ()
    assert tally.total == REQUESTS
    # Both have answered, and there were enough swaps for it to mean anything.
    assert set(tally.answered) == {"200/1", "200/2"}
    assert all(len(each) > 10 for each in took_ms)
    # Of many, on a machine that does other things too; alone it is a few milliseconds.
    assert statistics.median(took_ms[REVERT]) < REVERT_MS
