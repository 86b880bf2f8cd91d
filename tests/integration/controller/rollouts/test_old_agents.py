"""Rollouts of what an agent of before does not understand leave its device out, and say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.rollouts.core.types import RolloutStatus
from shared.ids import DeviceId, Sha256
from shared.wire import AssignmentStatus, DesiredComponent, ProbationPolicy, TargetRef
from tests.support.rollout_ports import V1, V2

if TYPE_CHECKING:
    from tests.integration.controller.rollouts.conftest import World

TARGET = TargetRef(path="artifacts/crop.tflite", length_bytes=1, sha256=Sha256("c" * 64))


async def test_device_whose_agent_is_too_old_for_a_canary_share_is_left_out_and_never_told(world: World) -> None:
    world.fleet.add(2)
    world.fleet.add(1, prefix="old")
    old = DeviceId("old-000")
    world.fleet.cohorts.old = {old}
    rollout = await world.start(waves=("100%",), policy=ProbationPolicy(canary_share=0.5))
    await world.succeed_wave(rollout)
    left_out = (await world.assignments(rollout))[old]
    assert left_out.status is AssignmentStatus.REJECTED
    assert left_out.reason.startswith("agent_too_old: it does not understand a canary share; update litefleet")
    assert old not in world.fleet.desires.intents
    assert (await world.state(rollout)).status is RolloutStatus.COMPLETED


async def test_device_whose_agent_is_too_old_for_components_gets_only_releases_without(world: World) -> None:
    world.fleet.add(1)
    world.fleet.cohorts.old = {DeviceId("d-000")}
    await world.complete(V1)
    assert world.fleet.desires.intents[DeviceId("d-000")].release_id == V1
    world.fleet.releases.components = (DesiredComponent(name="crop", artifact=TARGET),)
    rollout = await world.start(V2)
    (left_out,) = (await world.assignments(rollout)).values()
    assert left_out.reason.startswith("agent_too_old: it does not understand a release with components")
    assert world.fleet.desires.intents[DeviceId("d-000")].release_id == V1
