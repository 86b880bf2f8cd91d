"""Loops that fail are started again; calls that may succeed later are made again; both end when they are told to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.app import supervised
from controller.config import ControllerConfig
from controller.db.retry import retrying
from controller.trust.installation import Trust
from controller.wiring import broker_security
from shared.clock import SystemClock
from shared.errors import ConflictError, InvalidInputError, UnreachableError
from tests.support.controller_process import ControllerProcess
from tests.support.ports import accepts_connections
from tests.support.programs import find_program, stop_process
from tests.support.waiting import wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator


async def test_loop_that_fails_is_started_again() -> None:
    lives = 0
    again = asyncio.Event()

    async def loop() -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            raise ZeroDivisionError
        again.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(supervised("loop", loop))
        await again.wait()
        task.cancel()
    assert lives == 2


async def test_loop_that_ends_is_not_started_again() -> None:
    lives = 0

    async def loop() -> None:
        nonlocal lives
        lives += 1

    await supervised("loop", loop)
    assert lives == 1


async def test_retrying_call_is_made_until_it_succeeds() -> None:
    calls = 0

    async def call() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise UnreachableError("away", retry_after_s=0.01)
        return "done"

    assert await retrying(call, what="test") == "done"
    assert calls == 3


async def test_retrying_call_that_can_never_succeed_is_made_once() -> None:
    async def call() -> None:
        raise ConflictError(kind="thing", name="x", problem="stands")

    with pytest.raises(ConflictError):
        await retrying(call, what="test")


def test_broker_certificate_missing_is_named(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path, clock=SystemClock())
    config = ControllerConfig(
        state_dir=tmp_path, broker_certificate=tmp_path / "none.pem", broker_key=tmp_path / "none.key"
    )
    with pytest.raises(InvalidInputError, match="broker_certificate"):
        broker_security(config, trust)


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[ControllerProcess]:
    """A running controller, and a mosquitto as `--write-broker-config` prepares it."""
    with ControllerProcess(tmp_path) as controller:
        folder = controller.state_dir / "broker"
        command = [sys.executable, "-m", "controller", "--config", str(tmp_path / "controller.toml")]
        made = subprocess.run(
            [*command, "--write-broker-config", str(folder)],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        assert made.stdout == f"mosquitto -c {folder}/mosquitto.conf\n"
        broker = subprocess.Popen(
            [find_program("mosquitto"), "-c", folder / "mosquitto.conf"], stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: accepts_connections(controller.broker_port), what="mosquitto listens")
            yield controller
        finally:
            stop_process(broker)


async def test_broker_prepared_by_the_controller_takes_it(prepared: ControllerProcess) -> None:
    async with prepared.client() as api:

        async def connected() -> bool:
            return (await api.status()).broker_connected

        await wait_until_async(connected, within_s=20)
