"""The demo's child processes, and its search for a broker."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from controller.demo.broker import find_mosquitto
from controller.demo.processes import ProgramFailedError, Programs, free_ports, python_module
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FOR_EVER = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    running = Programs(tmp_path)
    yield running
    await running.stop()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_program_that_ends_is_noticed_with_the_end_of_its_log(programs: Programs) -> None:
    program = await programs.start("broken", sys.executable, "-c", "raise SystemExit('no such luck')")
    await program.process.wait()
    with pytest.raises(ProgramFailedError, match=r"broken ended with code 1:\nno such luck"):
        programs.check()


async def test_program_run_to_its_end_is_not_missed(programs: Programs) -> None:
    await programs.run("quick", sys.executable, "-c", "print('done')")
    programs.check()


async def test_program_that_takes_too_long_is_killed(programs: Programs) -> None:
    with pytest.raises(ProgramFailedError) as failure:
        await programs.run("slow", sys.executable, "-c", FOR_EVER, timeout_s=0.3)
    assert failure.value.code == -signal.SIGKILL


async def test_stop_takes_the_children_of_children_along(programs: Programs) -> None:
    script = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {FOR_EVER!r}]).pid, flush=True); "
    program = await programs.start("parent", sys.executable, "-c", script + FOR_EVER)
    await wait_until_async(lambda: program.tail().count("up") == 2, what="parent and child are up")
    child = int(next(line for line in program.tail().splitlines() if line.isdigit()))
    await programs.stop()
    await wait_until_async(lambda: not _alive(child) or _zombie(child), what="the child is gone, too")


def _zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - /proc is Linux's own
        return stat.read().rpartition(")")[2].split()[0] == "Z"


def test_ports_are_free_and_all_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_module_is_run_by_this_interpreter() -> None:
    assert python_module("controller", "--help") == (sys.executable, "-m", "controller", "--help")


def test_mosquitto_is_found_on_path_before_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "mosquitto"
    planted.write_text("#!/bin/sh\n")
    planted.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_mosquitto() == str(planted)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    found = find_mosquitto()
    assert found is None or "sbin" in found
