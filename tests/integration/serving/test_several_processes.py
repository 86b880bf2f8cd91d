"""Several serving processes on one host: one port, one plan, and nobody waits longer than for the one that restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from agent.serving.planned.planning import TRIES_EXHAUSTED
from agent.serving.planned.pool import ServingPool
from shared.clock import SystemClock
from tests.support import models
from tests.support.ports import LOOPBACK, accepts_connections
from tests.support.serving import CANDIDATE, CRASH, STABLE, Device, make_slot, plan_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.core.plan import Applied, Plan, Stats

GOOD = models.one_hot_classifier()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device(tmp_path / "state", processes=2) as made:
        yield made


@pytest.fixture
def serving(device: Device) -> Device:
    """A device whose two processes serve version 1."""
    device.write_boot(plan_of(make_slot(device.releases, GOOD)))
    device.start()
    wait_both(device)
    return device


def wait_both(device: Device) -> None:
    """Wait until both processes answer control, and inference is there."""
    wait_until(lambda: all((device.run / f"serving{end}.sock").exists() for end in ("", "-1")), within_s=20)
    wait_until(device.is_ready, within_s=20, what="serving is ready")


def pool_of(device: Device) -> ServingPool:
    paths = [device.run / "serving.sock", device.run / "serving-1.sock"]
    return ServingPool(paths, memory=device.run / "serving-lives.msgpack", clock=SystemClock())


def set_plan(device: Device, plan: Plan) -> Applied:
    async def send() -> Applied:
        pool = pool_of(device)
        try:
            return await pool.set_plan(plan)
        finally:
            await pool.close()

    return asyncio.run(send())


def stats(device: Device) -> Stats:
    async def ask() -> Stats:
        pool = pool_of(device)
        try:
            return await pool.stats()
        finally:
            await pool.close()

    return asyncio.run(ask())


def counted(measured: Stats) -> int:
    return sum(series.counts["requests"] for series in measured.series)


def pids(device: Device) -> tuple[int | None, int | None]:
    return device.serving_pid(0), device.serving_pid(1)


def test_callers_are_dealt_out_and_what_they_asked_is_added_up(serving: Device) -> None:
    # Every request is a connection of its own: that all 60 hash to one of two sockets has a chance of 2 ** -59.
    for _ in range(60):
        assert serving.infer().status == 200
    assert counted(stats(serving)) == 60
    alone = ServingPool([serving.run / "serving.sock"], memory=serving.run / "one", clock=SystemClock())

    async def ask() -> int:
        measured = await alone.stats()
        await alone.close()
        return counted(measured)

    assert 0 < asyncio.run(ask()) < 60


def test_killed_process_is_back_and_its_callers_had_only_to_wait(serving: Device) -> None:
    before = pids(serving)
    assert before[1] is not None
    os.kill(before[1], signal.SIGKILL)
    # Half of them are in the backlog of the one that starts again.
    assert {serving.infer().status for _ in range(20)} == {200}
    wait_until(lambda: pids(serving)[1] not in {None, before[1]}, what="the process is back")
    assert pids(serving)[0] == before[0]


def test_plan_is_put_in_force_in_both(serving: Device) -> None:
    new = make_slot(serving.releases, GOOD, release=CANDIDATE, version=2)
    applied = set_plan(serving, plan_of(new, serial=2))
    assert [(slot.loaded, slot.error) for slot in applied.slots] == [(True, "")]
    assert {serving.infer().body["model_version"] for _ in range(20)} == {"2"}


def test_plan_of_which_one_process_is_away_is_taken_up_by_it_from_the_disk(serving: Device) -> None:
    stats(serving)
    plan = plan_of(make_slot(serving.releases, GOOD, release=CANDIDATE, version=2), serial=2)
    serving.write_boot(plan)
    before = pids(serving)
    assert before[1] is not None
    os.kill(before[1], signal.SIGKILL)
    assert set_plan(serving, plan).slots[0].loaded
    wait_until(lambda: pids(serving)[1] not in {None, before[1]}, what="the process is back")
    wait_both(serving)
    assert {serving.infer().body["model_version"] for _ in range(20)} == {"2"}


def test_new_life_of_one_process_is_a_new_life_of_the_sum_and_is_counted_from_there(serving: Device) -> None:
    for _ in range(30):
        serving.infer()
    first = stats(serving)
    pid = serving.serving_pid(1)
    assert pid is not None

    async def follow() -> tuple[Stats, Stats]:
        """One control process, which sees the second process die and come back."""
        pool = pool_of(serving)
        before = after = await pool.stats()
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: serving.serving_pid(1) not in {None, pid}, within_s=20)
        await asyncio.to_thread(wait_both, serving)
        async with asyncio.timeout(20):
            # The first question finds the old connection broken, and the last word of the old life still counts.
            while after.boot_id == before.boot_id:
                after = await pool.stats()
        for _ in range(10):
            await asyncio.to_thread(serving.infer)
        after = await pool.stats()
        await pool.close()
        return before, after

    before, after = asyncio.run(follow())
    assert (before.boot_id, counted(before)) == (first.boot_id, 30)
    assert after.boot_id != first.boot_id
    # What the one that lives on had counted was told before.
    assert counted(after) == 10
    # Another control process goes on with the same sum.
    again = stats(serving)
    assert (again.boot_id, counted(again)) == (after.boot_id, 10)


def test_killed_supervisor_leaves_both_answering_and_the_next_one_adopts_both(serving: Device) -> None:
    before, control = pids(serving), wait_until(serving.control_pid)
    serving.kill_supervisor()
    assert {serving.infer().status for _ in range(20)} == {200}
    serving.start()
    wait_until(lambda: serving.control_pid() not in {None, control}, what="the new supervisor started control")
    assert {serving.infer().status for _ in range(20)} == {200}
    assert pids(serving) == before
    serving.stop()
    assert pids(serving) == (None, None)
    assert not accepts_connections(serving.port)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_is_taken_up_beside_an_orphan(tmp_path: Path, before: int, after: int) -> None:
    with Device(tmp_path / "state", processes=before) as device:
        device.write_boot(plan_of(make_slot(device.releases, GOOD)))
        device.start()
        device.wait_ready()
        wait_until(lambda: (device.run / "sockets.sock").exists() and len(list(device.run.glob("sockets*"))) == before)
        first = device.serving_pid()
        device.kill_supervisor()
        device.processes = after
        device.move_to(device.port)
        device.start()
        wait_until(lambda: (device.serving_pid(1) is None) == (after == 1), within_s=20)
        device.wait_ready()
        assert device.serving_pid() == first
        assert {device.infer().status for _ in range(20)} == {200}
        device.processes = 2


def test_port_of_somebody_else_is_refused_though_both_would_share(serving: Device, tmp_path: Path) -> None:
    with Device(tmp_path / "other", processes=2) as other:
        other.move_to(serving.port)
        other.start()
        wait_until(lambda: "cannot be used" in other.log.read_text(), within_s=20)
    with socket.create_connection((LOOPBACK, serving.port)):
        assert serving.infer().status == 200


def test_candidate_takes_one_try_of_both_and_each_crash_of_either_another(tmp_path: Path) -> None:
    with Device(tmp_path / "state", processes=2, serving="tests.support.crashing_serving") as device:
        stable = make_slot(device.releases, GOOD)
        good = make_slot(device.releases, GOOD, release=CANDIDATE, version=2)
        plan = plan_of(stable, good, serial=2, candidate=CANDIDATE)
        device.write_boot(plan, fallback=plan_of(stable), tries_left=3)
        device.start()
        wait_both(device)
        wait_until(lambda: set_plan(device, plan).slots[1].loaded)
        assert device.read_boot().tries_left == 2
        pid = device.serving_pid(1)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: device.read_boot().tries_left == 1, within_s=20)
        wait_until(lambda: set_plan(device, plan).slots[1].loaded)
        assert device.read_boot().tries_left == 1


def test_candidate_that_kills_both_as_it_loads_is_given_up_by_both(tmp_path: Path) -> None:
    with Device(tmp_path / "state", processes=2, serving="tests.support.crashing_serving") as device:
        stable = make_slot(device.releases, GOOD)
        deadly = make_slot(device.releases, GOOD + CRASH, release=CANDIDATE, version=2)
        plan = plan_of(stable, deadly, serial=2, candidate=CANDIDATE)
        device.write_boot(plan, fallback=plan_of(stable), tries_left=3)
        device.start()
        wait_until(lambda: device.log.read_text().count(TRIES_EXHAUSTED) == 2, within_s=40, what="both gave up")
        device.wait_ready()
        applied = set_plan(device, plan)
        assert [(slot.release_id, slot.loaded) for slot in applied.slots] == [(STABLE, True), (CANDIDATE, False)]
        assert applied.slots[1].error == TRIES_EXHAUSTED
        # The first round took one of three tries for both; then two were left, for one start each.
        assert device.log.read_text().count("ended with -6") == 4
