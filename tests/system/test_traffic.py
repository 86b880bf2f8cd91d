"""Variants from `device traffic set` to answers: controller, broker and a serving device, each a process of its own."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from controller.demo.processes import Programs
from controller.demo.screen import Screen
from controller.demo.world import World, build
from controller.traffic_views import ChangeView
from shared.clock import SystemClock
from tests.support.peaks import CLASSES, pushed, typed
from tests.support.serving import infer_body, one_hot
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(400)

QUICK = ("--min-pairs", "1", "--probation", "0")
BOTH = {
    "steps": [
        {"type": "run_model", "id": "own", "takes": ["request"]},
        {"type": "run_model", "id": "other", "takes": ["request"], "model": "finder"},
    ],
    "answers": ["own", "other"],
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One device."""
    programs = Programs(tmp_path)
    try:
        yield await build(tmp_path, programs, devices=1, screen=Screen(SystemClock()))
    finally:
        await programs.stop()


def asked(world: World) -> tuple[str, str]:
    """Ask the device, and return which variant and which version answered; empty where none did."""
    body = infer_body(one_hot(3, size=CLASSES))
    url = f"{world.agents[0].url}/v2/models/peaks/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as reply:
            answer = json.loads(reply.read())
            return reply.headers.get("Litefleet-Variant", ""), answer["model_version"]
    except urllib.error.URLError:
        return "", ""


async def answering(world: World, variant: str, version: str) -> None:
    """Wait until this one answers."""

    async def answers() -> bool:
        world.programs.check()
        return asked(world) == (variant, version)

    await wait_until_async(answers, within_s=120, what=f"{variant or 'main'} answers with version {version}")


async def must(world: World, *words: str) -> str:
    answer = await typed(world, *words)
    assert answer.code == 0, answer.err
    return answer.out


async def rolled_out(world: World, release: str) -> None:
    await must(world, "rollout", "start", release, "--cohort", "all", "--wave", "100%", "--soak", "0")


async def test_variant_is_brought_asked_switched_to_and_halted(world: World) -> None:
    await pushed(world)
    await pushed(world, scale=20.0)
    await rolled_out(world, "peaks/1")
    await answering(world, "", "1")

    traffic = ("device", "traffic", "set", "device-01", "peaks")
    told = await typed(
        world, *traffic, "--variant", "blue=peaks/2", "--weights", "main=0,blue=100", *QUICK, "-o", "json"
    )
    assert told.code == 0, told.err
    await answering(world, "blue", "2")
    shown = await must(world, "device", "show", "device-01")
    assert "desired     peaks/2 as blue" in shown

    async def told_back() -> bool:
        return "reported    peaks@blue: runs peaks/2" in await must(world, "device", "show", "device-01")

    await wait_until_async(told_back, within_s=60, what="the device tells what it runs")
    assert "probe       peaks@blue: " in await must(world, "device", "show", "device-01")

    await must(world, *traffic, "--weights", "main=100,blue=0")
    await answering(world, "main", "1")
    await must(world, *traffic, "--weights", "main=0,blue=100")
    await answering(world, "blue", "2")

    # Its share goes to the others, so that nobody is left without an answer.
    await must(world, "device", "traffic", "halt", told.read(ChangeView).change_id)
    await answering(world, "main", "1")
    await must(world, "device", "traffic", "clear", "device-01", "peaks")
    await answering(world, "", "1")


async def test_release_with_a_component_is_rolled_out_and_answers_with_both_models(world: World) -> None:
    await pushed(world)
    await pushed(world, scale=20.0)
    pipeline = world.folder / "both.json"
    pipeline.write_text(json.dumps(BOTH))
    created = ("release", "create", "peaks/2", "--pipeline", str(pipeline), "--component", "finder=peaks/1")
    release = json.loads(await must(world, *created, "-o", "json"))["release_id"]
    await rolled_out(world, release)
    await answering(world, "", "2")
    components = world.agents[0].state / "releases" / release / "components"
    assert [file.name for file in components.iterdir()] == ["finder.tflite"]
