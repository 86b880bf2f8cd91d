"""A whole device: supervisor, control and serving as processes, a broker, a repository, a controller's endpoints."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.signing import seal
from shared.wire import DESIRED_TYPE, AssignmentStatus, HaltMode
from tests.support.device_api import Fault
from tests.support.device_world import DeviceWorld
from tests.support.models import golden_check, one_hot_classifier
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.mosquitto import Mosquitto

pytestmark = pytest.mark.timeout(240)

BUDGET_KIB = 36 * 1024
"""Of the control process, beside the libraries that are mapped from files."""


@pytest.fixture
async def world(tmp_path: Path, mosquitto: Mosquitto) -> AsyncIterator[DeviceWorld]:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        yield world


async def answer(world: DeviceWorld, position: int = 3) -> tuple[int, str]:
    """Ask once; returns status, and who answered or why nobody did."""
    try:
        reply = await asyncio.to_thread(world.device.infer, position)
    except OSError:
        return 0, "unreachable"
    return reply.status, str(reply.body.get("model_version") or reply.body.get("reason") or reply.body)


async def ask_until(world: DeviceWorld, name: str, status: AssignmentStatus, *, within_s: float = 90.0) -> None:
    """Keep calling inference, as applications do, until an assignment is reported to have ended; none may fail."""
    failures: list[tuple[int, str]] = []

    async def asked() -> bool:
        for position in range(5):
            reply = await answer(world, position)
            if reply[0] != 200:
                failures.append(reply)
        found = world.assignment(name)
        return found is not None and found.status is status

    await wait_until_async(asked, within_s=within_s, what=f"{name} is {status}")
    assert failures == []


async def commit_first(world: DeviceWorld) -> None:
    world.device.start()
    await world.desire(world.release("release-1", one_hot_classifier()))
    await world.reported("release-1", "succeeded")


async def test_device_carries_a_good_release_and_reverts_a_bad_one_while_answering(world: DeviceWorld) -> None:
    await commit_first(world)
    assert await answer(world) == (200, "1")
    await world.desire(world.release("release-2", one_hot_classifier() + b"\0"))
    await ask_until(world, "release-2", AssignmentStatus.SUCCEEDED)
    assert await answer(world) == (200, "2")
    # Loads, passes its own golden check, and answers every question wrongly.
    await world.desire(world.release("release-3", one_hot_classifier(shift=1)))
    await ask_until(world, "release-3", AssignmentStatus.ROLLED_BACK)
    told = world.assignment("release-3")
    assert told is not None
    assert told.reason.startswith("flip_rate")
    assert await answer(world) == (200, "2")
    assert sorted(path.name for path in world.device.releases.iterdir()) == ["release-1", "release-2"]


async def test_device_control_keeps_its_memory_budget(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with DeviceWorld(tmp_path, mosquitto, control="tests.support.lean_control") as world:
        await world.pulse()
        await commit_first(world)
        pid = world.device.control_pid()
        assert pid is not None
        assert _own_memory_kib(pid) < BUDGET_KIB


def _own_memory_kib(pid: int) -> int:
    """What this process alone needs: code mapped from files is shared with whoever else happens to run Python."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


async def test_device_swaps_a_committed_release_back_when_its_rollout_is_halted(world: DeviceWorld) -> None:
    await commit_first(world)
    second = world.release("release-2", one_hot_classifier() + b"\0")
    await world.desire(second)
    await ask_until(world, "release-2", AssignmentStatus.SUCCEEDED)
    await world.pulse({second.rollout_id: HaltMode.REVERT})
    await ask_until(world, "release-2", AssignmentStatus.ROLLED_BACK)
    assert await answer(world) == (200, "1")


async def test_device_whose_first_release_fails_its_golden_check_answers_503_with_the_reason(
    world: DeviceWorld,
) -> None:
    other = golden_check(one_hot_classifier(shift=1))
    world.device.start()
    await world.desire(world.release("release-1", one_hot_classifier(), golden=other))
    told = await world.reported("release-1", "failed")
    assert told.reason.startswith("golden_mismatch")
    reply = await asyncio.to_thread(world.device.infer)
    assert reply.status == 503
    assert "golden_mismatch" in str(reply.body)
    # The very same bytes would be refused: the device has seen them fail.
    await world.desire(world.release("release-2", one_hot_classifier() + b"\0"))
    await world.reported("release-2", "succeeded")
    assert await answer(world) == (200, "2")


async def test_device_refuses_a_tampered_artifact_and_goes_on_serving(world: DeviceWorld) -> None:
    await commit_first(world)
    wanted = world.release("release-2", one_hot_classifier() + b"\0")
    world.server.faults[wanted.artifact.path] = Fault.FLIP
    await world.desire(wanted)
    told = await world.reported("release-2", "in_progress")
    await wait_until_async(
        lambda: "digest_mismatch" in world.reason("release-2"),
        within_s=60,
        what="the wrong bytes are reported",
    )
    assert told.activated is False
    assert await answer(world) == (200, "1")
    world.server.faults.clear()
    await ask_until(world, "release-2", AssignmentStatus.SUCCEEDED)


async def test_device_refuses_a_forged_desired_and_says_so(world: DeviceWorld) -> None:
    await commit_first(world)
    forged = seal(DESIRED_TYPE, msgspec.json.encode(world.desired()), Ed25519PrivateKey.generate())
    await world.publish_desired(forged)
    await wait_until_async(
        lambda: world.reports[-1].desired_refused.startswith("unseal_failed"), within_s=60, what="refusal reported"
    )
    assert await answer(world) == (200, "1")


async def test_device_control_killed_at_every_step_still_reaches_the_end(world: DeviceWorld) -> None:
    await commit_first(world)
    await world.desire(world.release("release-2", one_hot_classifier() + b"\0"))
    for _ in range(4):
        pid = await wait_until_async(world.device.control_pid, within_s=30, what="control runs")
        asked = len(world.server.requests)
        os.kill(pid, signal.SIGKILL)
        assert (await answer(world))[0] == 200
        await heard_again(world, asked)
    await ask_until(world, "release-2", AssignmentStatus.SUCCEEDED)


async def test_device_with_a_full_disk_reports_it_and_goes_on_when_there_is_room(world: DeviceWorld) -> None:
    await commit_first(world)
    pid = world.device.control_pid()
    assert pid is not None
    # No file of control may grow beyond what the journal has: to it, the disk is full.
    used = (world.device.state / "journal.db-wal").stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
    await world.desire(world.release("release-2", one_hot_classifier() + b"\0"))
    await wait_until_async(
        lambda: world.reports[-1].desired_refused.startswith("storage_full"), within_s=60, what="full disk reported"
    )
    assert await answer(world) == (200, "1")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await ask_until(world, "release-2", AssignmentStatus.SUCCEEDED)
    assert not world.reports[-1].desired_refused


async def test_device_with_a_full_disk_still_goes_back_when_a_halt_says_so(world: DeviceWorld) -> None:
    await commit_first(world)
    second = world.release("release-2", one_hot_classifier() + b"\0")
    await world.desire(second)
    await ask_until(world, "release-2", AssignmentStatus.SUCCEEDED)
    pid = world.device.control_pid()
    assert pid is not None
    used = (world.device.state / "journal.db-wal").stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
    # The step that cannot be remembered, and keeps all others waiting.
    await world.desire(world.release("release-3", one_hot_classifier() + b"\0\0"))
    await wait_until_async(
        lambda: world.reports[-1].desired_refused.startswith("storage_full"), within_s=60, what="full disk reported"
    )
    await world.pulse({second.rollout_id: HaltMode.REVERT})

    async def went_back() -> bool:
        return await answer(world) == (200, "1")

    await wait_until_async(went_back, within_s=30, what="stable answers, with the disk still full")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await ask_until(world, "release-3", AssignmentStatus.SUCCEEDED)
    told = world.assignment("release-2")
    assert told is None or told.status is AssignmentStatus.ROLLED_BACK


async def heard_again(world: DeviceWorld, seen: int) -> None:
    """Wait until control asks for more; count before it is killed, since it may be back within a tenth of a second."""
    await wait_until_async(lambda: len(world.server.requests) > seen, within_s=30, what="control is back")


async def test_device_with_a_truncated_journal_goes_on_serving_and_reports(world: DeviceWorld) -> None:
    await commit_first(world)
    await asyncio.to_thread(world.device.stop)
    journal = world.device.state / "journal.db"
    journal.write_bytes(b"rot" * 5000)
    for suffix in ("-wal", "-shm"):
        journal.with_name(journal.name + suffix).unlink(missing_ok=True)
    world.device.start()
    await asyncio.to_thread(world.device.wait_ready)
    assert await answer(world) == (200, "1")
    await wait_until_async(
        lambda: world.reason("release-1").startswith("journal_rebuilt"),
        within_s=60,
        what="the rebuilt journal is reported",
    )


async def test_device_with_bit_rot_in_its_stable_artifact_never_loads_it_and_mends_it(world: DeviceWorld) -> None:
    await commit_first(world)
    await asyncio.to_thread(world.device.stop)
    model = world.device.releases / "release-1" / "model.tflite"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(bytes(data))
    world.reports.clear()
    world.device.start()
    await wait_until_async(
        lambda: any(slot.unavailable_reason.startswith("damaged") for r in world.reports for slot in r.slots),
        within_s=60,
        what="the damage is reported",
    )
    await asyncio.to_thread(world.device.wait_ready, within_s=60)
    assert await answer(world) == (200, "1")
