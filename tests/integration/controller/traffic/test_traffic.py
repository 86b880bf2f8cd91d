"""Variants, rules and request logs over the operator's API, down to the sealed document and up from the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import pytest
import sqlalchemy as sa
from sqlmodel import col

from controller.db.audit import AuditEntryRow
from controller.traffic.service import PAGE
from shared.ids import RolloutId
from shared.probe import ExecutionMode, ModelProbe, ThreadTiming
from shared.topics import Channel
from shared.wire import TRAFFIC, AssignmentPhase, AssignmentReport, AssignmentStatus, HaltMode, SlotReport
from tests.support.fleet_broker import signing_request
from tests.support.fleet_world import DIGITS, NOW, FleetWorld, TestDevice, choice, intent, report
from tests.support.traffic_world import DOORS_ONE, FIVE, FOUR, X86_ONLY

if TYPE_CHECKING:
    import aiohttp

    from shared.ids import ReleaseId
    from shared.wire import Desired, DesiredModel

Answer = dict[str, object]
RULE: Answer = {"arms": [{"variant": "main", "weight": 90}, {"variant": "blue", "weight": 10}]}
BLUE: Answer = {"blue": {"release_id": FOUR}}


async def call(api: aiohttp.ClientSession, method: str, path: str, body: Answer | None = None) -> tuple[int, Answer]:
    async with api.request(method, f"/api/v1{path}", json=body) as response:
        return response.status, cast("Answer", await response.json()) if response.status != 204 else {}


async def must(api: aiohttp.ClientSession, **body: object) -> Answer:
    status, answer = await call(api, "POST", "/traffic", {"device": "cam-1", "model": "digits", **body})
    assert status == 200, answer
    return answer


async def refused(api: aiohttp.ClientSession, **body: object) -> tuple[int, str]:
    status, answer = await call(api, "POST", "/traffic", {"device": "cam-1", "model": "digits", **body})
    return status, str(answer["errors"] if "errors" in answer else answer["detail"])


async def running(world: FleetWorld, name: str = "cam-1", *, site: str = "north") -> TestDevice:
    """Return a device that a rollout has brought digits to."""
    device = await world.device(name, site=site)
    await world.desire(intent(device.device_id))
    return device


def lines(document: Desired) -> dict[str, DesiredModel]:
    return {
        "main" if isinstance(entry.variant, msgspec.UnsetType) else entry.variant: entry
        for entry in document.body.models
    }


async def test_variant_and_rule_set_are_sealed_beside_the_release_of_the_rollout(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    device = await running(world)
    answer = await must(api, variants=BLUE, rule=RULE)
    assert (answer["changed"], answer["refused"]) == (1, 0)
    document = await world.document(device)
    assert document.generation == 2
    assert {name: entry.release_id for name, entry in lines(document).items()} == {"main": "r1", "blue": FOUR}
    blue = lines(document)["blue"]
    assert (blue.rollout_id, blue.model, blue.artifact) == (answer["change_id"], "digits", choice("b").artifact)
    rules = document.body.traffic
    assert isinstance(rules, tuple)
    assert [(arm.variant, arm.weight) for arm in rules[0].arms] == [("main", 90), ("blue", 10)]


async def test_same_order_again_changes_nothing(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    device = await running(world)
    await must(api, variants=BLUE, rule=RULE)
    before = await world.desired.sealed_for(device.device_id)
    answer = await must(api, variants=BLUE, rule=RULE)
    assert (answer["changed"], answer["unchanged"]) == (0, 1)
    assert await world.desired.sealed_for(device.device_id) == before


async def test_rollout_goes_on_moving_the_main_line_beside_variants(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    device = await running(world)
    await must(api, variants=BLUE, rule=RULE)
    await world.desire(intent(device.device_id, "r2", letter="c"))
    document = await world.document(device)
    assert {name: entry.release_id for name, entry in lines(document).items()} == {"main": "r2", "blue": FOUR}
    async with world.database.unit_of_work(read_only=True) as uow:
        assert await world.desired.current(uow, [device.device_id], DIGITS) == {device.device_id: "r2"}
    await world.desire(intent(device.device_id, None))
    assert set(lines(await world.document(device))) == {"blue"}


async def test_clear_brings_back_the_digest_from_before(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    device = await running(world)
    before = (await world.document(device)).body
    await must(api, variants=BLUE, rule=RULE)
    await must(api, clear=True)
    document = await world.document(device)
    assert (document.body, document.generation) == (before, 3)


async def test_variant_that_the_rule_names_is_not_removed(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    device = await running(world)
    await must(api, variants=BLUE, rule=RULE)
    status, why = await refused(api, remove=["blue"])
    assert (status, "names blue, which the device does not have" in why) == (422, True)
    assert "blue" in lines(await world.document(device))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"variants": {"blue": {"release_id": DOORS_ONE}}}, "doors/1 is no release of digits"),
        ({"variants": {"blue": {"release_id": "nobody"}}}, "no release nobody"),
        ({"variants": {"blue": {"release_id": X86_ONLY}}}, "architecture aarch64 is not x86_64"),
        ({"variants": {"main": {"release_id": FOUR}}}, "is moved by rollouts"),
        ({"rule": RULE}, "names blue"),
        ({"rule": {"arms": [{"variant": "main", "weight": 0}]}}, "all weights are 0"),
        ({}, "asks for nothing"),
        ({"cohort": "all", "clear": True}, "exactly one of device and cohort"),
        ({"model": "faces", "rule": {"arms": [{"variant": "main", "weight": 1}]}}, "should run nothing of faces"),
    ],
)
async def test_order_that_cannot_be_is_refused_with_the_field(
    world: FleetWorld, api: aiohttp.ClientSession, body: Answer, why: str
) -> None:
    device = await running(world)
    status, told = await refused(api, **body)
    assert (status, why in told) == (422, True), told
    assert (await world.document(device)).generation == 1


async def test_device_that_is_not_there_is_not_found(api: aiohttp.ClientSession) -> None:
    assert (await refused(api, variants=BLUE))[0] == 404
    assert (await call(api, "GET", "/devices/cam-1/traffic"))[0] == 404


async def test_cohort_is_counted_first_and_names_who_cannot(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    north = [await running(world, f"cam-{number}") for number in range(3)]
    await running(world, "cam-9", site="south")
    await world.fleet.register("cam-3", site="north", labels={}, actor="operator")
    body: Answer = {"model": "digits", "cohort": "site=north", "variants": BLUE, "rule": RULE}
    _, planned = await call(api, "POST", "/traffic", {**body, "dry_run": True})
    assert (planned["devices"], planned["changed"], planned["refused"]) == (4, 3, 1)
    assert (await world.document(north[0])).generation == 1
    _, done = await call(api, "POST", "/traffic", body)
    assert (done["changed"], done["refusals"]) == (
        3,
        [{"device_id": "cam-3", "reason": "device: cam-3 has not enrolled (enrol it)"}],
    )
    for device in north:
        assert "blue" in lines(await world.document(device))
    status, empty = await call(api, "POST", "/traffic", {**body, "cohort": "site=nowhere"})
    assert (status, "holds no device" in str(empty)) == (422, True)


async def test_cohort_of_several_pages_is_counted_whole_and_names_the_first_hundred(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    devices = PAGE + 1
    for number in range(devices):
        await world.fleet.register(f"cam-{number:03d}", site="north", labels={}, actor="operator")
    _, done = await call(api, "POST", "/traffic", {"model": "digits", "cohort": "all", "variants": BLUE})
    assert (done["devices"], done["refused"], done["changed"]) == (devices, devices, 0)
    assert len(cast("list[Answer]", done["refusals"])) == 100


async def test_device_that_would_be_told_too_much_is_refused_and_stays(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    device = await running(world)
    pins = {f"{number:03d}-{'x' * 250}": "main" for number in range(200)}
    rule: Answer = {"arms": [{"variant": "main", "weight": 1}], "sticky_by": "key", "pins": pins}
    status, why = await refused(api, rule=rule)
    assert (status, "more than" in why) == (409, True), why
    assert (await world.document(device)).generation == 1
    _, many = await call(api, "POST", "/traffic", {"model": "digits", "cohort": "all", "rule": rule})
    assert (many["refused"], many["changed"]) == (1, 0)


async def test_change_is_audited_once_with_what_it_set(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    await running(world)
    answer = await must(api, variants=BLUE, rule=RULE)
    await must(api, variants=BLUE, rule=RULE)
    async with world.database.unit_of_work(read_only=True) as uow:
        chosen = sa.select(AuditEntryRow).where(col(AuditEntryRow.action) == "traffic.set")
        rows = list((await uow.session.execute(chosen)).scalars())
    assert [(row.subject, row.detail["weights"], row.detail["scope"]) for row in rows] == [
        (answer["change_id"], "main=90,blue=10", "device=cam-1")
    ]


async def test_halted_change_is_named_by_the_pulse_and_set_again_as_another(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    device = await running(world)
    change = str((await must(api, variants=BLUE))["change_id"])
    assert (await call(api, "POST", f"/traffic/{change}/halt", {}))[0] == 204
    pulse = world.opened_pulse(await world.pulse.sealed_pulse())
    assert pulse.halted == {RolloutId(change): HaltMode.REVERT}
    again = await must(api, variants=BLUE)
    assert again["changed"] == 1
    assert lines(await world.document(device))["blue"].rollout_id == again["change_id"] != change
    assert (await call(api, "POST", "/traffic/nobody/halt", {}))[0] == 404


async def test_release_of_a_variant_counts_as_used(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    await running(world)
    await must(api, variants={"blue": {"release_id": FOUR}, "green": {"release_id": FOUR}})
    async with world.database.unit_of_work(read_only=True) as uow:
        assert await world.desired.in_use(uow, FOUR) == "desired of 1 device"
        assert await world.desired.in_use(uow, FIVE) == ""


async def test_removed_device_has_no_traffic_left_for_its_successor(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    device = await running(world)
    await must(api, variants=BLUE, rule=RULE)
    await world.fleet.remove("cam-1", actor="operator")
    invite = await world.fleet.register("cam-1", site="north", labels={}, actor="operator")
    await world.fleet.enrol(token=invite.token, csr_pem=signing_request(device.key), hardware=report().hardware)
    _, shown = await call(api, "GET", "/devices/cam-1/traffic")
    assert shown["items"] == []


async def test_traffic_shown_tells_variants_their_change_and_the_rule(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    await running(world)
    change = (await must(api, variants=BLUE, rule={**RULE, "sticky_by": "header", "header": "x-user"}))["change_id"]
    _, shown = await call(api, "GET", "/devices/cam-1/traffic")
    [digits] = cast("list[Answer]", shown["items"])
    variants = cast("list[Answer]", digits["variants"])
    assert {str(one["variant"]): one["change_id"] for one in variants} == {"main": "rollout-1", "blue": change}
    assert cast("Answer", digits["rule"])["header"] == "x-user"


async def test_request_log_is_asked_for_and_taken_back(world: FleetWorld, api: aiohttp.ClientSession) -> None:
    device = await running(world)
    body: Answer = {"device": "cam-1", "model": "digits", "sample_rate": 0.25, "upstream": True}
    status, answer = await call(api, "POST", "/request-logs", body)
    assert (status, answer["changed"]) == (200, 1)
    wishes = (await world.document(device)).body.request_logs
    assert isinstance(wishes, tuple)
    assert (wishes[0].model, wishes[0].sample_rate, wishes[0].upstream) == ("digits", 0.25, True)
    await call(api, "POST", "/request-logs", {**body, "sample_rate": 0})
    assert isinstance((await world.document(device)).body.request_logs, msgspec.UnsetType)
    status, why = await call(api, "POST", "/request-logs", {**body, "model": "faces"})
    assert (status, "nothing of faces" in str(why)) == (422, True)


@pytest.mark.parametrize(("variant", "silent"), [(FOUR, 1), (FIVE, 0)])
async def test_request_log_that_no_release_on_a_device_consents_to_is_counted(
    world: FleetWorld, api: aiohttp.ClientSession, variant: ReleaseId, silent: int
) -> None:
    device = await world.device("cam-1", site="north")
    await world.desire(intent(device.device_id, FOUR))
    await must(api, variants={"blue": {"release_id": variant}})
    body: Answer = {"device": "cam-1", "model": "digits", "sample_rate": 0.25}
    for _ in range(2):
        _, answer = await call(api, "POST", "/request-logs", body)
        assert answer["without_consent"] == silent
    _, answer = await call(api, "POST", "/request-logs", {**body, "sample_rate": 0})
    assert answer["without_consent"] == 0


async def test_report_of_a_variant_is_stored_and_shown_with_its_probe(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    device = await running(world)
    change = str((await must(api, variants=BLUE, rule=RULE))["change_id"])
    probe = ModelProbe(
        mode=ExecutionMode.INLINE, workers=0, threads=1, by_threads=(ThreadTiming(threads=1, p50_ms=0.04),)
    )
    told = AssignmentReport(
        model=DIGITS,
        variant="blue",
        release_id=FOUR,
        rollout_id=RolloutId(change),
        attempt=1,
        status=AssignmentStatus.IN_PROGRESS,
        phase=AssignmentPhase.TRIAL,
        changed_at=NOW,
    )
    said = msgspec.structs.replace(
        report(generation=2),
        slots=(SlotReport(model=DIGITS), SlotReport(model=DIGITS, variant="blue", stable=FOUR, probe=probe)),
        assignments=(told,),
    )
    await world.ingest.take([device.says(Channel.REPORT, said)])
    assert world.acks(device) == [1]
    _, shown = await call(api, "GET", "/devices/cam-1")
    slots = cast("list[Answer]", shown["slots"])
    assert [(slot["variant"], slot["stable"]) for slot in slots] == [("main", None), ("blue", FOUR)]
    assert cast("Answer", slots[1]["probe"])["mode"] == "inline"
    assert [one["variant"] for one in cast("list[Answer]", shown["assignments"])] == ["blue"]
    assert shown["desired"] == {"digits": "r1", "digits@blue": FOUR}
    assert "digits@blue: trial" in str(shown["explanation"])


async def heard(
    world: FleetWorld, name: str = "cam-1", *, understands: tuple[str, ...] | msgspec.UnsetType
) -> TestDevice:
    """Return a device that runs digits and has reported as an agent of some age does."""
    device = await running(world, name)
    await world.ingest.take([device.says(Channel.REPORT, msgspec.structs.replace(report(), understands=understands))])
    assert world.acks(device) == [1]
    return device


@pytest.mark.parametrize("understands", [msgspec.UNSET, ("something newer",)])
@pytest.mark.parametrize(("path", "asked"), [("/traffic", {"variants": BLUE}), ("/request-logs", {"sample_rate": 0.5})])
async def test_agent_that_understands_no_variants_is_sent_none(
    world: FleetWorld,
    api: aiohttp.ClientSession,
    understands: tuple[str, ...] | msgspec.UnsetType,
    path: str,
    asked: Answer,
) -> None:
    device = await heard(world, understands=understands)
    status, answer = await call(api, "POST", path, {"device": "cam-1", "model": "digits", **asked})
    assert (status, "update litefleet on the device" in str(answer)) == (422, True), answer
    assert (await world.document(device)).generation == 1


async def test_cohort_with_an_old_agent_names_it_and_tells_the_others(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    await heard(world, understands=msgspec.UNSET)
    await heard(world, "cam-2", understands=(TRAFFIC,))
    await running(world, "cam-3")
    answer = await must(api, device="", cohort="all", variants=BLUE)
    assert (answer["changed"], answer["refused"]) == (2, 1)
    assert "cam-1" in str(answer["refusals"])


async def test_what_was_set_can_be_taken_from_an_agent_that_does_not_understand_it(
    world: FleetWorld, api: aiohttp.ClientSession
) -> None:
    device = await running(world)
    await must(api, variants=BLUE)
    await world.ingest.take([device.says(Channel.REPORT, report())])
    assert (await must(api, clear=True))["changed"] == 1
