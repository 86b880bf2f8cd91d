"""What deltas save is summed up over a rollout, each device once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from controller.rollouts.views import assignment_view, rollout_view
from shared.wire import AssignmentPhase, AssignmentStatus, Transfer
from tests.support.rollout_ports import V1, SentReport

if TYPE_CHECKING:
    from shared.ids import DeviceId
    from tests.integration.controller.rollouts.conftest import World


def report(world: World, device: DeviceId, fetched_bytes: int, *, phase: AssignmentPhase | None = None) -> SentReport:
    """Return a report of a device that fetched so much for an artifact of 1,000 bytes."""
    status = AssignmentStatus.SUCCEEDED if phase is None else AssignmentStatus.IN_PROGRESS
    sent = world.fleet.report(device, status, phase=phase)
    transfer = Transfer(fetched_bytes=fetched_bytes, full_bytes=1_000)
    said = tuple(replace(one, transfer=transfer) for one in sent.report.assignments)
    return SentReport(device_id=device, report=replace(sent.report, assignments=said))


async def shown(world: World) -> tuple[int, int]:
    (stored,) = await world.rollouts.page(after=None, limit=1)
    view = rollout_view(stored)
    return view.fetched_bytes, view.full_bytes


async def test_fetched_bytes_are_summed_each_device_once(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start(V1, waves=("100%",))
    assert await shown(world) == (0, 0)
    first, second = (await world.told(rollout))[:2]
    await world.send(
        report(world, first, 50, phase=AssignmentPhase.TRIAL), report(world, second, 1_000, phase=AssignmentPhase.TRIAL)
    )
    assert await shown(world) == (1_050, 2_000)
    # Told again, and once more at the end: it is still the same transfer.
    await world.send(report(world, first, 50, phase=AssignmentPhase.SHADOW))
    await world.send(report(world, first, 50))
    assert await shown(world) == (1_050, 2_000)
    view = assignment_view((await world.assignments(rollout))[first])
    assert (view.fetched_bytes, view.full_bytes) == (50, 1_000)


async def test_device_that_fetched_more_since_moves_the_sum(world: World) -> None:
    world.fleet.add(1)
    rollout = await world.start(V1)
    (device,) = await world.told(rollout)
    await world.send(report(world, device, 50, phase=AssignmentPhase.TRIAL))
    await world.send(report(world, device, 1_050, phase=AssignmentPhase.TRIAL))
    assert await shown(world) == (1_050, 1_000)


async def test_older_agent_that_tells_nothing_counts_for_nothing(world: World) -> None:
    world.fleet.add(1)
    rollout = await world.start(V1)
    (device,) = await world.told(rollout)
    await world.send(world.fleet.report(device, AssignmentStatus.SUCCEEDED))
    assert await shown(world) == (0, 0)
