"""A model that nobody asks for leaves the memory of the real process, and is back with the next request."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.core.plan import Plan, Route
from agent.serving.planned.link import ServingClient
from shared.ids import ModelName, ReleaseId
from tests.support import models
from tests.support.serving import Device, http, infer_body, make_slot
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.core.plan import SlotSpec

SIZE = 2_000
LARGE = models.random_classifier(SIZE, SIZE, seed=1)
NAMES = ("digits", "letters")


@pytest.fixture
def slots(tmp_path: Path) -> list[SlotSpec]:
    releases = tmp_path / "releases"
    return [make_slot(releases, LARGE, release=ReleaseId(name), name=ModelName(name)) for name in NAMES]


def plan_of(slots: list[SlotSpec]) -> Plan:
    routes = tuple(Route(model=slot.model, primary=slot.release_id) for slot in slots)
    return Plan(serial=1, slots=tuple(slots), routes=routes)


@pytest.fixture
def device(tmp_path: Path, request: pytest.FixtureRequest, slots: list[SlotSpec]) -> Iterator[Device]:
    with Device(tmp_path / "state", settings=request.param) as made:
        made.write_boot(plan_of(slots))
        made.start()
        made.wait_ready()
        yield made


def index(device: Device) -> dict[str, tuple[str, str]]:
    """State and reason by model, as the repository index tells them: a list, which `http` does not read."""
    request = urllib.request.Request(f"{device.url}/v2/repository/index", data=b"{}")
    with urllib.request.urlopen(request, timeout=20) as reply:
        return {entry["name"]: (entry["state"], entry["reason"]) for entry in json.loads(reply.read())}


def infer(device: Device, name: str) -> int:
    return http(f"{device.url}/v2/models/{name}/infer", infer_body([0.5] * SIZE)).status


def anonymous_mib(device: Device) -> float:
    pid = device.serving_pid()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.parametrize("device", ["idle_unload_s = 0.3\n"], indirect=True)
def test_idle_models_give_their_memory_back_and_answer_again(device: Device) -> None:
    both = ("UNAVAILABLE", "unloaded_idle")
    loaded_mib = anonymous_mib(device)
    wait_until(lambda: index(device) == dict.fromkeys(NAMES, both), within_s=20, what="both are unloaded")
    # 2,000 by 2,000 weights are 15 MiB in the file, and as much again in the interpreter.
    wait_until(lambda: anonymous_mib(device) < loaded_mib - 40, within_s=20, what="the memory is given back")
    assert device.is_ready()
    assert infer(device, "digits") == 200
    assert index(device)["digits"][0] in {"READY", "UNAVAILABLE"}
    assert infer(device, "letters") == 200


@pytest.mark.parametrize("device", ["model_memory_bytes = 60_000_000\n"], indirect=True)
def test_budget_for_one_of_two_models_serves_both_in_turns(device: Device) -> None:
    assert sorted(index(device).values()) == [("READY", ""), ("UNAVAILABLE", "evicted")]
    awake = next(name for name, (state, _) in index(device).items() if state == "READY")
    asleep = next(name for name in NAMES if name != awake)
    assert infer(device, asleep) == 200
    assert index(device)[awake] == ("UNAVAILABLE", "evicted")
    # The one that has just answered stays, and the other's caller is told when to come again.
    refused = http(f"{device.url}/v2/models/{awake}/infer", infer_body([0.5] * SIZE))
    assert refused.status == 503
    assert refused.body["reason"].startswith("memory_budget")
    assert "Retry-After" in refused.headers


@pytest.mark.parametrize("device", ["idle_unload_s = 0.3\n"], indirect=True)
def test_control_hears_of_a_sleeping_release_that_it_is_loaded_and_asleep(
    device: Device, slots: list[SlotSpec]
) -> None:
    wait_until(lambda: {state for state, _ in index(device).values()} == {"UNAVAILABLE"}, within_s=20)

    async def ask() -> list[tuple[bool, str]]:
        client = ServingClient(device.run / "serving.sock")
        applied = await client.set_plan(plan_of(slots))
        await client.close()
        return [(slot.loaded, slot.asleep) for slot in applied.slots]

    assert asyncio.run(ask()) == [(True, "unloaded_idle"), (True, "unloaded_idle")]
