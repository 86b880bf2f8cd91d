"""Variants on a whole device: brought and tried as any release is, divided by a sealed rule, taken back by a halt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from shared.traffic import MAIN, Arm, TrafficRule
from shared.wire import AssignmentStatus, HaltMode
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.serving import MODEL
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.wire import DesiredModel
    from tests.support.mosquitto import Mosquitto

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def world(tmp_path: Path, mosquitto: Mosquitto) -> AsyncIterator[DeviceWorld]:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        world.device.start()
        yield world


def rule(main: int, blue: int) -> TrafficRule:
    arms = (Arm(variant=MAIN, weight=main), Arm(variant="blue", weight=blue))
    return TrafficRule(model=MODEL, arms=arms)


def as_blue(wanted: DesiredModel) -> DesiredModel:
    return replace(wanted, variant="blue")


async def versions(world: DeviceWorld, count: int = 20) -> set[str]:
    """Ask so often, and return which versions answered; every request must be answered."""

    def ask() -> str:
        answer = world.device.infer()
        assert answer.status == 200, answer.body
        return str(answer.body["model_version"])

    return {await asyncio.to_thread(ask) for _ in range(count)}


async def answered_by(world: DeviceWorld, wanted: set[str]) -> None:
    """Wait until these versions answer, and no others."""
    seen: set[str] = set()

    async def asked() -> bool:
        nonlocal seen
        seen = await versions(world)
        return seen == wanted

    await wait_until_async(asked, within_s=30, what=f"versions {wanted} answer")


async def test_variant_answers_its_share_and_goes_when_its_rollout_is_halted(world: DeviceWorld) -> None:
    main, blue = (
        world.release("release-1", one_hot_classifier()),
        world.release("release-2", one_hot_classifier(shift=1)),
    )
    await world.desire(main)
    await world.reported("release-1", "succeeded")
    await world.desire(main, as_blue(blue), traffic=(rule(1, 1),))
    told = await world.reported("release-2", "succeeded")
    assert (told.model, told.variant) == (MODEL, "blue")
    await answered_by(world, {"1", "2"})
    # There and back without loading anything: both stay.
    await world.desire(main, as_blue(blue), traffic=(rule(0, 1),))
    await answered_by(world, {"2"})
    await world.desire(main, as_blue(blue), traffic=(rule(1, 0),))
    await answered_by(world, {"1"})
    await world.desire(main, as_blue(blue), traffic=(rule(0, 1),))
    await answered_by(world, {"2"})
    await world.pulse({blue.rollout_id: HaltMode.REVERT})
    await answered_by(world, {"1"})
    assert (await world.reported("release-2", "rolled_back")).variant == "blue"


async def test_resting_variant_is_brought_another_release_and_judged_on_copies(world: DeviceWorld) -> None:
    main, first = world.release("release-1", one_hot_classifier()), world.release("release-2", one_hot_classifier())
    await world.desire(main, as_blue(first), traffic=(rule(1, 0),))
    await world.reported("release-1", "succeeded")
    await world.reported("release-2", "succeeded")

    async def until(name: str, status: AssignmentStatus) -> None:
        async def asked() -> bool:
            assert await versions(world, 5) == {"1"}
            found = world.assignment(name)
            return found is not None and found.status is status

        await wait_until_async(asked, within_s=60, what=f"{name} is {status}")

    bad = world.release("release-3", one_hot_classifier(shift=1))
    await world.desire(main, as_blue(bad), traffic=(rule(1, 0),))
    await until("release-3", AssignmentStatus.ROLLED_BACK)
    assert world.reason("release-3").startswith("flip_rate")
    good = world.release("release-4", one_hot_classifier() + b"\0")
    await world.desire(main, as_blue(good), traffic=(rule(1, 0),))
    await until("release-4", AssignmentStatus.SUCCEEDED)


async def test_attack_bad_rule_leaves_everything_as_it_was(world: DeviceWorld) -> None:
    main = world.release("release-1", one_hot_classifier())
    await world.desire(main)
    await world.reported("release-1", "succeeded")
    await world.desire(main, traffic=(rule(0, 0),))
    await wait_until_async(lambda: world.reports[-1].desired_refused.startswith("bad_traffic"), within_s=20)
    assert await versions(world, 5) == {"1"}
