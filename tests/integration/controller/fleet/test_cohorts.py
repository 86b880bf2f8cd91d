"""Cohorts in SQL choose whom the language says."""

from __future__ import annotations

import random

import pytest

from controller.fleet.cohorts import FleetRuntimes
from controller.fleet.core import query as language
from shared.conversion import RuntimeVersion
from shared.errors import InvalidInputError, PermanentError
from shared.ids import DeviceId
from tests.support.fleet_world import HARDWARE, OPERATOR, FleetWorld

QUERIES = [
    "all",
    "site=north",
    "site!=north",
    "line=a",
    "line!=a",
    "line=a,site=south",
    "line!=a,floor!=2",
    "device=cam-03",
    "device!=cam-03,line=b",
    "arch=aarch64",
    "arch!=aarch64",
    "floor=none",
]


async def populated(world: FleetWorld) -> None:
    chance = random.Random(7)
    for number in range(12):
        labels = {key: chance.choice("ab12") for key in ("line", "floor") if chance.random() < 0.7}
        site = chance.choice(["north", "south"])
        if number % 3:
            await world.device(f"cam-{number:02}", site=site, labels=labels)
        else:
            await world.fleet.register(f"cam-{number:02}", site=site, labels=labels, actor=OPERATOR)


async def test_queries_choose_in_sql_whom_they_match_in_words(world: FleetWorld) -> None:
    await populated(world)
    await world.fleet.remove("cam-05", actor=OPERATOR)
    async with world.database.unit_of_work(read_only=True) as uow:
        everybody = await world.cohorts.iterate(uow, "all", None, 100)
        assert len(everybody) == 11
        for query in QUERIES:
            chosen = await world.cohorts.iterate(uow, query, None, 100)
            parsed = language.parse(query)
            expected = [facts.device_id for facts in everybody if language.matches(parsed, facts)]
            assert [facts.device_id for facts in chosen] == expected, query


async def test_iteration_by_cursor_meets_everybody_once_in_order(world: FleetWorld) -> None:
    await populated(world)
    met: list[DeviceId] = []
    async with world.database.unit_of_work(read_only=True) as uow:
        while page := await world.cohorts.iterate(uow, "all", met[-1] if met else None, 5):
            met += [facts.device_id for facts in page]
    assert met == sorted(set(met))
    assert len(met) == 12


async def test_query_with_a_label_that_nobody_has_is_refused_with_the_known_ones(world: FleetWorld) -> None:
    await world.device("cam-1", labels={"line": "a"})
    async with world.database.unit_of_work(read_only=True) as uow:
        with pytest.raises(InvalidInputError, match="known keys: device, site, arch, line"):
            await world.cohorts.check(uow, "lien=a")


async def test_facts_of_unknown_and_removed_devices_are_absent(world: FleetWorld) -> None:
    await world.device("cam-1")
    await world.device("cam-2")
    await world.fleet.remove("cam-2", actor=OPERATOR)
    ids = [DeviceId("cam-1"), DeviceId("cam-2"), DeviceId("cam-3")]
    async with world.database.unit_of_work(read_only=True) as uow:
        assert list(await world.cohorts.facts(uow, ids)) == ["cam-1"]


async def test_labels_replaced_leave_nothing_of_the_old_ones(world: FleetWorld) -> None:
    await world.device("cam-1", labels={"line": "a", "floor": "1"})
    story = await world.fleet.label("cam-1", {"line": "b"}, actor=OPERATOR)
    assert story.device.labels == {"line": "b"}


@pytest.mark.parametrize(
    "labels",
    [{"site": "x"}, {"Line": "x"}, {"line": ""}, {"line": "a,b"}, {"line": "a=b"}, {f"k{n}": "v" for n in range(33)}],
    ids=["built in", "upper case", "empty", "comma", "equals", "too many"],
)
async def test_label_that_no_query_could_name_is_refused(world: FleetWorld, labels: dict[str, str]) -> None:
    with pytest.raises(PermanentError):
        await world.fleet.register("cam-1", site="north", labels=labels, actor=OPERATOR)


async def test_label_that_nobody_has_any_more_chooses_nobody(world: FleetWorld) -> None:
    await world.device("cam-1", labels={"line": "a"})
    await world.fleet.label("cam-1", {}, actor=OPERATOR)
    async with world.database.unit_of_work(read_only=True) as uow:
        assert await world.cohorts.iterate(uow, "line=a", None, 100) == []


async def test_runtimes_are_those_of_enrolled_devices_each_once(world: FleetWorld) -> None:
    async with world.database.unit_of_work(read_only=True) as uow:
        assert await FleetRuntimes().runtimes(uow) == ()
    await populated(world)
    async with world.database.unit_of_work(read_only=True) as uow:
        only = RuntimeVersion(runtime=HARDWARE.runtime, version=HARDWARE.runtime_version)
        assert await FleetRuntimes().runtimes(uow) == (only,)
    for number in range(12):
        await world.fleet.remove(f"cam-{number:02}", actor=OPERATOR)
    async with world.database.unit_of_work(read_only=True) as uow:
        assert await FleetRuntimes().runtimes(uow) == ()
