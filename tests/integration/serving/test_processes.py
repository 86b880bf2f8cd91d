from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from agent.serving.planned.link import ServingClient
from agent.serving.planned.planning import TRIES_EXHAUSTED
from shared.errors import UnreachableError
from tests.support import models
from tests.support.ports import LOOPBACK, accepts_connections, free_port
from tests.support.serving import (
    CANDIDATE,
    CRASH,
    MODEL,
    ROOT,
    STABLE,
    Device,
    infer_body,
    make_slot,
    one_hot,
    plan_of,
)
from tests.support.serving import (
    http as ask,
)
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.core.plan import Plan

GOOD = models.one_hot_classifier()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device(tmp_path / "state") as made:
        yield made


@pytest.fixture
def serving(device: Device) -> Device:
    """A device that serves version 1."""
    device.write_boot(plan_of(make_slot(device.releases, GOOD)))
    device.start()
    device.wait_ready()
    return device


class Caller(threading.Thread):
    """Asks over and over on connections that it keeps, as an application does; notes what it got."""

    def __init__(self, device: Device) -> None:
        super().__init__(daemon=True)
        self._device = device
        self._is_over = threading.Event()
        self.answered, self.failures, self.longest_s = 0, list[str](), 0.0

    @override
    def run(self) -> None:
        """Ask until stopped; a connection that was lost is opened anew, and the failure noted."""
        connection = http.client.HTTPConnection(LOOPBACK, self._device.port, timeout=20)
        body = infer_body(one_hot(3))
        while not self._is_over.is_set():
            started = time.monotonic()
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", body)
                reply = connection.getresponse()
                reply.read()
                if reply.status != 200:
                    self.failures.append(str(reply.status))
                self.answered += 1
            except (OSError, http.client.HTTPException) as exc:
                self.failures.append(repr(exc))
                connection.close()
            self.longest_s = max(self.longest_s, time.monotonic() - started)
        connection.close()

    def stop(self) -> None:
        """End, and wait for it."""
        self._is_over.set()
        self.join(30)


@contextmanager
def calling(device: Device, count: int = 2) -> Iterator[list[Caller]]:
    callers = [Caller(device) for _ in range(count)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: all(caller.answered for caller in callers), what="all callers got an answer")
        yield callers
    finally:
        for caller in callers:
            caller.stop()


def answers_from_now(callers: list[Caller], count: int = 20) -> None:
    """Wait until each caller got so many answers more."""
    goals = [caller.answered + count for caller in callers]
    wait_until(
        lambda: all(caller.answered >= goal for caller, goal in zip(callers, goals, strict=True)),
        within_s=20,
        what="callers are answered",
    )


def set_plan(device: Device, plan: Plan) -> list[tuple[bool, str]]:
    """Send a plan as control does."""

    async def send() -> list[tuple[bool, str]]:
        client = ServingClient(device.run / "serving.sock")
        try:
            applied = await client.set_plan(plan)
        finally:
            await client.close()
        return [(slot.loaded, slot.error) for slot in applied.slots]

    return asyncio.run(send())


def test_killed_serving_is_back_on_the_same_port_with_its_callers_waiting(serving: Device) -> None:
    pid = serving.serving_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    # Asked while nobody serves: the connection waits in the supervisor's socket.
    assert serving.infer().status == 200
    assert time.monotonic() - started < 10
    assert serving.serving_pid() != pid


def test_killed_control_is_started_again_and_inference_does_not_notice(serving: Device) -> None:
    before = wait_until(serving.control_pid)
    with calling(serving) as callers:
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: serving.control_pid() not in {None, before}, what="control is back")
        answers_from_now(callers)
    assert [caller.failures for caller in callers] == [[], []]


def test_killed_supervisor_stops_no_inference_and_the_next_one_adopts_it(serving: Device) -> None:
    pid, control = serving.serving_pid(), wait_until(serving.control_pid)
    assert pid is not None
    with calling(serving) as callers:
        serving.kill_supervisor()
        wait_until(lambda: serving.control_pid() != control, what="control ends with its supervisor")
        answers_from_now(callers)
        serving.start()
        wait_until(serving.control_pid, what="the new supervisor started control")
        answers_from_now(callers)
    assert [caller.failures for caller in callers] == [[], []]
    assert serving.serving_pid() == pid
    # Adopted means watched: when it dies, it is started again on the same socket.
    os.kill(pid, signal.SIGKILL)
    assert serving.infer().status == 200
    assert serving.serving_pid() != pid


def test_supervisor_that_finds_an_orphan_stops_it_when_told_to(serving: Device) -> None:
    pid, control = serving.serving_pid(), wait_until(serving.control_pid)
    serving.kill_supervisor()
    serving.start()
    wait_until(lambda: serving.control_pid() not in {None, control}, what="the new supervisor started control")
    serving.stop()
    assert serving.serving_pid() is None
    assert pid is not None
    assert not accepts_connections(serving.port)


def test_supervisor_with_another_port_replaces_the_orphan_on_the_old_one(serving: Device) -> None:
    old_port, pid = serving.port, serving.serving_pid()
    serving.kill_supervisor()
    serving.move_to(free_port())
    serving.start()
    serving.wait_ready()
    assert serving.serving_pid() != pid
    assert not accepts_connections(old_port)


def test_sigterm_finishes_what_is_in_flight_and_leaves_nothing(serving: Device) -> None:
    with calling(serving, count=1) as callers:
        os.kill(serving.supervisor_pid, signal.SIGTERM)
        wait_until(lambda: not accepts_connections(serving.port), what="the port is free")
        callers[0].stop()
    # Refused when nobody listens any more, or hung up on between two requests; never a broken answer.
    assert not [failure for failure in callers[0].failures if failure.isdigit()]
    wait_until(lambda: serving.serving_pid() is None and serving.control_pid() is None, what="all children ended")


def test_hot_swap_under_load_in_the_real_process_fails_nothing(serving: Device) -> None:
    old = make_slot(serving.releases, GOOD)
    new = make_slot(serving.releases, GOOD, release=CANDIDATE, version=2)
    with calling(serving, count=4) as callers:
        for serial in range(2, 22):
            assert set_plan(serving, plan_of(new if serial % 2 else old, serial=serial)) == [(True, "")]
            answers_from_now(callers, count=3)
    assert [caller.failures for caller in callers] == [[], [], [], []]
    assert ask(f"{serving.url}/v2/models/{MODEL}").body["versions"] == ["2"]


def test_candidate_that_kills_serving_as_it_loads_is_given_up_after_its_tries(tmp_path: Path) -> None:
    with Device(tmp_path / "state", serving="tests.support.crashing_serving") as device:
        stable = make_slot(device.releases, GOOD)
        deadly = make_slot(device.releases, GOOD + CRASH, release=CANDIDATE, version=2)
        plan = plan_of(stable, deadly, serial=2, candidate=CANDIDATE)
        device.write_boot(plan, fallback=plan_of(stable), tries_left=3)
        device.start()
        device.wait_ready(within_s=40)
        assert device.infer().body["model_version"] == "1"
        assert device.read_boot().tries_left == 0
        # Control sends the same plan again: it hears why, and serving lives on.
        assert set_plan(device, plan) == [(True, ""), (False, TRIES_EXHAUSTED)]
        assert device.infer().body["model_version"] == "1"
        assert device.log.read_text().count("serving ended with -6") == 3


def test_damaged_model_on_disk_is_never_loaded(device: Device) -> None:
    slot = make_slot(device.releases, GOOD)
    path = device.releases / STABLE / "model.tflite"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 0xFF
    path.write_bytes(damaged)
    device.write_boot(plan_of(slot))
    device.start()
    wait_until(lambda: accepts_connections(device.port))
    reply = device.infer()
    assert reply.status == 503
    assert reply.body["reason"].startswith("digest_mismatch")


@pytest.mark.parametrize("content", [None, b'{"plan": tru'])
def test_without_a_boot_file_serving_says_503_until_control_speaks(device: Device, content: bytes | None) -> None:
    if content is not None:
        (device.state / "boot.json").write_bytes(content)
    device.start()
    wait_until(lambda: accepts_connections(device.port))
    reply = device.infer()
    assert (reply.status, reply.body["reason"]) == (503, "starting: no plan yet")
    assert "Retry-After" in reply.headers
    assert set_plan(device, plan_of(make_slot(device.releases, GOOD))) == [(True, "")]
    assert device.infer().status == 200


def test_port_in_use_is_named_with_the_setting(device: Device) -> None:
    with socket.create_server((LOOPBACK, device.port)):
        device.start()
        assert exit_code(device) == os.EX_UNAVAILABLE
    complaint = device.log.read_text()
    assert str(device.port) in complaint
    assert "http_port" in complaint
    assert "LITEFLEET_AGENT_HTTP_PORT" in complaint


def test_second_supervisor_on_the_same_state_is_refused(serving: Device) -> None:
    second = Device(serving.state)
    second.config.write_text(f'state_dir = "{serving.state}"\nhttp_port = {second.port}\n')
    second.start()
    assert exit_code(second) == os.EX_TEMPFAIL
    assert "another supervisor" in second.log.read_text()
    assert serving.infer().status == 200


def test_wrong_settings_end_the_supervisor_instead_of_a_crash_loop(device: Device) -> None:
    device.config.write_text(device.config.read_text() + 'no_such_setting = "x"\n')
    device.start()
    assert exit_code(device) == os.EX_CONFIG
    assert "no_such_setting" in device.log.read_text()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_address_that_others_could_reach_is_refused(device: Device, host: str) -> None:
    device.config.write_text(device.config.read_text() + f'http_host = "{host}"\n')
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--config", str(device.config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == os.EX_CONFIG
    assert "not a loopback address" in done.stderr


def test_state_folder_with_a_long_path_works(tmp_path: Path) -> None:
    with Device(tmp_path / ("long-" * 20) / "state") as device:
        assert len(str(device.run / "serving.sock")) > 107
        device.start()
        wait_until((device.run / "serving.sock").exists)
        assert set_plan(device, plan_of(make_slot(device.releases, GOOD))) == [(True, "")]


def test_files_of_the_run_folder_are_private(serving: Device) -> None:
    assert serving.run.stat().st_mode & 0o777 == 0o700
    for name in ("serving.sock", "sockets.sock"):
        assert (serving.run / name).stat().st_mode & 0o777 == 0o600


async def test_client_reconnects_to_a_serving_that_was_killed(serving: Device) -> None:
    client = ServingClient(serving.run / "serving.sock")
    first = await client.stats()
    pid = serving.serving_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UnreachableError):
        await client.stats()
    await asyncio.to_thread(serving.wait_ready)
    second = await client.stats()
    await client.close()
    assert first.boot_id < second.boot_id


async def test_client_of_a_serving_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"serving\.sock"):
        await ServingClient(tmp_path / "serving.sock").stats()


def exit_code(device: Device) -> int:
    process = device._supervisor
    assert process is not None
    return process.wait(30)
