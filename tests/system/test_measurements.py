"""From `conversion measure` to figures shown: controller, broker and a serving device, each a process of its own."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from controller.demo.processes import Programs
from controller.demo.screen import Screen
from controller.demo.world import World, build
from controller.views import ConversionView, MeasurementView, ReleaseView
from shared.clock import SystemClock
from shared.hardware import HardwareProfile, Runtime
from shared.ids import HardwareProfileId
from tests.support.peaks import pushed, typed
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(400)

ELSEWHERE = HardwareProfile(
    profile_id=HardwareProfileId("elsewhere"),
    architectures=("armv7l",),
    max_latency_ms=500.0,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One device."""
    programs = Programs(tmp_path)
    try:
        yield await build(tmp_path, programs, devices=1, screen=Screen(SystemClock()))
    finally:
        await programs.stop()


async def only_conversion(world: World) -> ConversionView:
    async with world.client() as api:
        (found,) = await api.conversions()
        return await api.conversion(found.conversion_id)


async def test_conversion_is_measured_on_a_device_that_serves_and_its_figures_are_shown(world: World) -> None:
    release = await pushed(world)
    conversion = (await only_conversion(world)).conversion_id
    assert "measured on no device" in (await typed(world, "conversion", "show", conversion)).out
    unasked = await typed(world, "conversion", "show", conversion)
    assert "the converter only" in unasked.out

    measured = await typed(
        world, "conversion", "measure", conversion, "--device", "device-01", "--wait", "--timeout", "120", "-o", "json"
    )
    assert measured.code == 0, measured.err
    (told,) = measured.read(list[MeasurementView])
    assert (told.state, told.device_id, told.sha256) == ("done", "device-01", release.artifacts[0].sha256)
    assert told.figures is not None
    assert told.figures.runs >= 40
    assert 0 < told.figures.cpu_p50_ms <= told.figures.cpu_p95_ms < 500
    assert told.runtime == Runtime.AI_EDGE_LITERT
    assert told.runtime_version

    shown = (await typed(world, "conversion", "show", conversion)).out
    budget = next(line for line in shown.splitlines() if "roomy" in line and "500 ms" in line)
    assert "device-01" in budget
    assert "keeps" in budget
    assert "the converter only" not in shown

    # Nothing of it is left: neither on the device nor in what is desired of it.
    folder = world.agents[0].state / "releases"
    assert not folder.exists() or list(folder.glob(".measured-*")) == []
    async with world.client() as api:
        assert (await api.device("device-01")).desired == {}

    # With a release that it serves, asked again, it measures beside serving.
    started = await typed(world, "rollout", "start", "peaks/1", "--cohort", "all", "--wave", "100%", "-o", "json")
    assert started.code == 0, started.err

    async def serves() -> bool:
        async with world.client() as api:
            return [slot.stable for slot in (await api.device("device-01")).slots] == [release.release_id]

    await wait_until_async(serves, within_s=120, what="the device serves the release")
    again = await typed(world, "conversion", "measure", conversion, "--device", "device-01", "--wait", "-o", "json")
    assert again.code == 0, again.err
    (anew,) = again.read(list[MeasurementView])
    assert anew.ended_at is not None
    assert told.ended_at is not None
    assert anew.ended_at > told.ended_at
    assert await serves()
    world.programs.check()


async def test_device_of_no_class_of_the_conversion_and_unknown_device_are_refused(world: World) -> None:
    await pushed(world, profile=ELSEWHERE)
    conversion = (await only_conversion(world)).conversion_id
    wrong = await typed(world, "conversion", "measure", conversion, "--device", "device-01")
    assert wrong.code == 1
    assert "of no class that the conversion is for" in wrong.err
    assert f"architecture {platform.machine()} is not one of armv7l" in wrong.err
    unknown = await typed(world, "conversion", "measure", conversion, "--device", "device-99")
    assert (unknown.code, "no device device-99" in unknown.err) == (1, True)


async def test_push_measured_first_is_released_by_the_devices_word(world: World) -> None:
    released = await pushed(world, "--measure-on", "device-01")
    (made,) = (await only_conversion(world)).artifacts
    assert [budget.measured_on for budget in made.budgets] == ["device-01"]
    again = await typed(world, "conversion", "release", (await only_conversion(world)).conversion_id, "-o", "json")
    assert again.read(ReleaseView) == released
