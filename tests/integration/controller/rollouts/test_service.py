"""Rollouts on a real database, from the start to either end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import IntegrityError

from controller.rollouts import store
from controller.rollouts.core.types import PauseReason, RolloutStatus
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import RolloutId
from shared.wire import AssignmentPhase, AssignmentStatus, HaltMode, PairedCounts
from tests.support.rollout_ports import SMALL, V1, V2, V3

if TYPE_CHECKING:
    from controller.rollouts.spec import Assignment
    from tests.integration.controller.rollouts.conftest import World

_S = AssignmentStatus


async def test_rollout_goes_wave_by_wave_to_its_end(world: World) -> None:
    world.fleet.add(12)
    rollout = await world.start()
    sizes = []
    while (await world.state(rollout)).status is RolloutStatus.RUNNING:
        await world.succeed_wave(rollout)
        sizes.append(len(world.fleet.desires.intents))
    state = await world.state(rollout)
    assert state.status is RolloutStatus.COMPLETED
    # Once a wave is through, the next one has begun with as many devices as the cap allows.
    assert sizes == [3, 11, 12]
    assert [wave.tally.succeeded for wave in state.waves] == [1, 2, 9]
    assert {one.release_id for one in world.fleet.desires.intents.values()} == {V1}


async def test_plan_shows_who_will_be_in_which_wave(world: World) -> None:
    world.fleet.add(12)
    plan = await world.rollouts.plan(world.request())
    assert [len(wave.devices) for wave in plan.waves] == [1, 2, 9]
    rollout = await world.start()
    assert await world.told(rollout) == list(plan.waves[0].devices)


async def test_bad_release_is_reverted_to_the_release_before_it_under_the_rollout_that_brought_it(
    world: World,
) -> None:
    world.fleet.add(12)
    first = await world.complete(V1)
    second = await world.start(V2)
    (canary,) = await world.told(second)
    await world.send(world.fleet.report(canary, _S.ROLLED_BACK, reason="too_many_flips: 40 of 60", stable=V1))
    state = await world.state(second)
    assert state.status is RolloutStatus.ROLLED_BACK
    assert world.fleet.pulses.halted == {second: HaltMode.REVERT}
    intent = world.fleet.desires.intents[canary]
    assert (intent.release_id, intent.rollout_id) == (V1, first)
    assert len(await world.assignments(second)) == 1


async def test_bad_first_release_is_taken_away(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start()
    (canary,) = await world.told(rollout)
    await world.send(world.fleet.report(canary, _S.ROLLED_BACK, reason="no_previous: candidate errors"))
    assert world.fleet.desires.intents[canary].release_id is None
    assert (await world.state(rollout)).status is RolloutStatus.ROLLED_BACK


async def test_abort_with_revert_waits_until_devices_hold_nothing_of_the_release(world: World) -> None:
    world.fleet.add(3)
    await world.complete(V1)
    rollout = await world.start(V2, waves=("100%",))
    done, working = (await world.told(rollout))[:2]
    await world.send(world.fleet.report(done, _S.SUCCEEDED), world.fleet.report(working, _S.IN_PROGRESS, stable=V1))
    await world.rollouts.abort(rollout, HaltMode.REVERT, actor="olivia")
    await world.dispatch.drain()
    assert (await world.state(rollout)).status is RolloutStatus.ROLLING_BACK
    waiting = [device for device, one in (await world.assignments(rollout)).items() if one.going_back]
    await world.send(*(world.fleet.silent_report(device, stable=V2) for device in waiting))
    assert (await world.state(rollout)).status is RolloutStatus.ROLLING_BACK
    await world.send(*(world.fleet.silent_report(device, stable=V1) for device in waiting))
    assert (await world.state(rollout)).status is RolloutStatus.ROLLED_BACK
    assert {one.release_id for one in world.fleet.desires.intents.values()} == {V1}


async def test_abort_with_stop_leaves_what_was_activated(world: World) -> None:
    world.fleet.add(3)
    await world.complete(V1)
    rollout = await world.start(V2, waves=("100%",))
    done, waiting = (await world.told(rollout))[:2]
    await world.send(world.fleet.report(done, _S.SUCCEEDED))
    await world.rollouts.abort(rollout, HaltMode.STOP, actor="olivia")
    await world.dispatch.drain()
    assert world.fleet.desires.intents[done].release_id == V2
    assert world.fleet.desires.intents[waiting].release_id == V1
    back = [device for device, one in (await world.assignments(rollout)).items() if one.going_back]
    await world.send(*(world.fleet.silent_report(device, stable=V1) for device in back))
    assert (await world.state(rollout)).status is RolloutStatus.ABORTED


async def test_rollback_at_its_deadline_names_devices_that_have_not_confirmed(world: World) -> None:
    world.fleet.add(3)
    await world.complete(V1)
    rollout = await world.start(V2)
    (canary,) = await world.told(rollout)
    await world.rollouts.abort(rollout, HaltMode.REVERT, actor="olivia")
    await world.dispatch.drain()
    await world.tick(3601)
    state = await world.state(rollout)
    assert state.status is RolloutStatus.ROLLED_BACK
    assert canary in state.why.sentence


async def test_second_rollout_of_the_model_on_the_same_devices_is_refused_with_their_names(world: World) -> None:
    world.fleet.add(3)
    first = await world.start(V1)
    with pytest.raises(ConflictError) as refusal:
        await world.start(V2)
    assert first in str(refusal.value)
    assert "d-000, d-001, d-002" in str(refusal.value)


async def test_second_rollout_on_other_devices_runs_beside_the_first(world: World) -> None:
    world.fleet.add(3, prefix="a")
    world.fleet.add(3, prefix="b")
    first = await world.start(V1, cohort="ring=a")
    second = await world.start(V2, cohort="ring=b")
    assert len(await world.told(first)) == len(await world.told(second)) == 1


async def test_database_refuses_two_open_assignments_of_one_model_on_a_device(world: World) -> None:
    world.fleet.add(1)
    rollout = await world.start(V1)
    (one,) = (await world.assignments(rollout)).values()
    with pytest.raises(IntegrityError):
        await _insert(world, replace(one, rollout_id=RolloutId("another")))


async def _insert(world: World, one: Assignment) -> None:
    async with world.database.unit_of_work() as uow:
        await store.insert_assignments(uow, [one])


async def test_device_that_came_to_another_cohort_meanwhile_is_rejected_by_name(world: World) -> None:
    world.fleet.add(2, prefix="a")
    world.fleet.add(2, prefix="b")
    first = await world.start(V1, cohort="ring=a", waves=("1", "100%"))
    second = await world.start(V2, cohort="ring=b", waves=("1", "100%"))
    (moved,) = await world.told(first)
    facts = world.fleet.cohorts.devices[moved]
    world.fleet.cohorts.devices[moved] = type(facts)(
        device_id=moved, site=facts.site, labels={"ring": "b"}, hardware=facts.hardware, last_seen_at=facts.last_seen_at
    )
    await world.succeed_one(second)
    rejected = (await world.assignments(second))[moved]
    assert rejected.status is _S.REJECTED
    assert rejected.reason == f"in_other_rollout: {first}"
    assert moved in await world.told(first)


async def test_release_that_was_reverted_needs_an_override(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start(V3)
    (canary,) = await world.told(rollout)
    await world.send(world.fleet.report(canary, _S.ROLLED_BACK))
    with pytest.raises(ConflictError, match="override_blacklist"):
        await world.start(V3)
    again = await world.start(V3, override_blacklist=True)
    (told,) = await world.told(again)
    assert world.fleet.desires.intents[told].override_blacklist


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"waves": ("1", "25%")}, "waves"),
        ({"waves": ("25%", "25%", "100%")}, "waves"),
        ({"cohort": "colour=red"}, "cohort"),
        ({"cohort": "ring=x"}, "cohort"),
        ({"wave_deadline_s": 5.0}, "wave_deadline_s"),
        ({"unreachable_after_s": 0.0}, "unreachable_after_s"),
        ({"soak_s": -1.0}, "soak_s"),
    ],
)
async def test_rollout_that_cannot_be_meant_is_refused_and_leaves_nothing(
    world: World, changes: dict[str, object], field: str
) -> None:
    world.fleet.add(20)
    with pytest.raises(InvalidInputError) as refusal:
        await world.start(V1, **changes)
    assert refusal.value.field == field
    assert await world.rollouts.page(after=None, limit=10) == []


async def test_rollout_of_an_unknown_release_is_refused(world: World) -> None:
    world.fleet.add(1)
    with pytest.raises(NotFoundError):
        await world.start(type(V1)("release-9"))


async def test_cohort_of_devices_that_never_enrolled_is_refused(world: World) -> None:
    world.fleet.add(2, hardware=None)
    with pytest.raises(InvalidInputError, match="none of which has enrolled"):
        await world.start()


async def test_device_with_no_fitting_artifact_is_rejected_and_never_told(world: World) -> None:
    world.fleet.add(2)
    world.fleet.add(1, prefix="small", hardware=SMALL)
    rollout = await world.start(waves=("100%",))
    await world.succeed_wave(rollout)
    small = next(one for one in (await world.assignments(rollout)).values() if one.device_id.startswith("small"))
    assert small.status is _S.REJECTED
    assert small.reason.startswith("no_fitting_artifact: memory")
    assert small.device_id not in world.fleet.desires.intents
    assert (await world.state(rollout)).status is RolloutStatus.COMPLETED


async def test_whole_cohort_offline_holds_and_goes_on_when_a_device_returns(world: World) -> None:
    world.fleet.add(3)
    world.fleet.clock.move(1000)
    rollout = await world.start()
    state = await world.state(rollout)
    assert (state.status, state.pause) == (RolloutStatus.PAUSED, PauseReason.INSUFFICIENT_DATA)
    assert "1 not seen" in state.why.sentence
    (canary,) = await world.told(rollout)
    await world.send(world.fleet.report(canary, _S.SUCCEEDED))
    await world.tick(11)
    assert (await world.state(rollout)).waves[0].status == "succeeded"


async def test_device_that_goes_silent_after_being_told_is_excused(world: World) -> None:
    world.fleet.add(4)
    rollout = await world.start(waves=("100%",))
    silent, other = await world.told(rollout)
    await world.send(world.fleet.report(other, _S.SUCCEEDED))
    world.fleet.clock.move(299)
    await world.tick()
    assert not (await world.assignments(rollout))[silent].unreachable
    await world.tick(2)
    assert (await world.assignments(rollout))[silent].unreachable


async def test_device_without_progress_for_too_long_counts_as_failed(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start(wave_deadline_s=100_000.0)
    (canary,) = await world.told(rollout)
    await world.send(world.fleet.report(canary, _S.IN_PROGRESS, phase=AssignmentPhase.DOWNLOADING))
    world.fleet.see_all()
    await world.tick(2000)
    row = (await world.assignments(rollout))[canary]
    assert row.status is _S.TIMED_OUT
    assert "downloading" in row.reason
    assert (await world.state(rollout)).status is RolloutStatus.ROLLING_BACK


async def test_device_removed_in_the_middle_of_its_wave_is_excused(world: World) -> None:
    world.fleet.add(2)
    rollout = await world.start(waves=("100%",))
    gone, stays = await world.told(rollout)
    async with world.database.unit_of_work() as uow:
        await world.rollouts.device_removed(uow, gone)
    del world.fleet.cohorts.devices[gone]
    await world.send(world.fleet.report(stays, _S.SUCCEEDED))
    await world.tick(11)
    assert (await world.assignments(rollout))[gone].status is _S.REMOVED
    assert (await world.state(rollout)).status is RolloutStatus.COMPLETED


async def test_removed_device_that_nobody_told_of_is_found_by_its_timer(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start()
    (gone,) = await world.told(rollout)
    del world.fleet.cohorts.devices[gone]
    await world.tick(301)
    assert (await world.assignments(rollout))[gone].status is _S.REMOVED


async def test_label_changed_in_the_middle_of_a_wave_moves_nobody_out_of_it(world: World) -> None:
    world.fleet.add(4)
    rollout = await world.start(cohort="ring=d")
    (canary,) = await world.told(rollout)
    facts = world.fleet.cohorts.devices[canary]
    world.fleet.cohorts.devices[canary] = type(facts)(
        device_id=canary,
        site=facts.site,
        labels={"ring": "x"},
        hardware=facts.hardware,
        last_seen_at=facts.last_seen_at,
    )
    await world.send(world.fleet.report(canary, _S.SUCCEEDED))
    row = (await world.assignments(rollout))[canary]
    assert row.status is _S.SUCCEEDED
    assert row.facts.labels == {"ring": "d"}


async def test_report_of_another_attempt_or_after_the_end_changes_nothing(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start()
    (canary,) = await world.told(rollout)
    await world.send(world.fleet.report(canary, _S.ROLLED_BACK, attempt=2))
    assert (await world.assignments(rollout))[canary].status is _S.QUEUED
    await world.send(world.fleet.report(canary, _S.SUCCEEDED))
    await world.send(world.fleet.report(canary, _S.ROLLED_BACK))
    await world.send(world.fleet.report(canary, _S.IN_PROGRESS))
    assert (await world.assignments(rollout))[canary].status is _S.SUCCEEDED


async def test_report_repeated_is_counted_once(world: World) -> None:
    world.fleet.add(20)
    rollout = await world.start(waves=("100%",))
    (first, _) = await world.told(rollout)
    paired = PairedCounts(pairs=60, flips=3)
    same = world.fleet.report(first, _S.SUCCEEDED, paired=paired)
    await world.send(same, same)
    await world.send(same)
    total = (await world.state(rollout)).total
    assert (total.succeeded, total.paired, total.flip_ppm) == (1, 1, 50_000)


async def test_timer_after_a_report_that_was_not_counted_yet_keeps_the_counters_true(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start(wave_deadline_s=100_000.0)
    (canary,) = await world.told(rollout)
    async with world.database.unit_of_work() as uow:
        await world.rollouts.accept(uow, [world.fleet.report(canary, _S.IN_PROGRESS)])
    world.fleet.clock.move(5000)
    await world.rollouts.tick()
    assert (await world.state(rollout)).total.failed == 1


async def test_pause_hands_back_devices_that_were_not_told_yet(world: World) -> None:
    world.fleet.add(12)
    world.fleet.clock.move(1)
    stored = await world.rollouts.create(world.request(waves=("100%",)), actor="olivia")
    rollout = stored.spec.rollout_id
    await world.rollouts.pause(rollout, actor="olivia")
    await world.dispatch.drain()
    assert await world.told(rollout) == []
    await world.rollouts.resume(rollout, actor="olivia")
    await world.dispatch.drain()
    assert len(await world.told(rollout)) == 2


async def test_asking_what_the_state_forbids_is_a_conflict(world: World) -> None:
    world.fleet.add(1)
    rollout = await world.start()
    with pytest.raises(ConflictError, match="only a paused rollout"):
        await world.rollouts.resume(rollout, actor="olivia")


async def test_rollout_ended_leaves_its_devices_to_the_next_one(world: World) -> None:
    world.fleet.add(2)
    first = await world.start(V1, waves=("100%",))
    away, there = await world.told(first)
    await world.send(world.fleet.report(there, _S.SUCCEEDED))
    await world.tick(301)
    await world.tick(11)
    assert (await world.state(first)).status is RolloutStatus.COMPLETED
    second = await world.start(V2, waves=("100%",))
    assert (await world.assignments(first))[away].status is _S.SUPERSEDED
    assert away in await world.assignments(second)


async def test_release_is_in_use_while_a_rollout_needs_it(world: World) -> None:
    world.fleet.add(2)
    await world.complete(V1)
    second = await world.start(V2)
    async with world.database.unit_of_work(read_only=True) as uow:
        assert second in await world.rollouts.in_use(uow, V2)
        assert "go back to it" in await world.rollouts.in_use(uow, V1)
        assert await world.rollouts.in_use(uow, V3) == ""


async def test_decisions_tell_the_story_with_reasons(world: World) -> None:
    world.fleet.add(3)
    rollout = await world.start(waves=("1", "100%"))
    (canary,) = await world.told(rollout)
    await world.send(world.fleet.report(canary, _S.ROLLED_BACK, reason="too_slow: median 3.1"))
    rows = await world.rollouts.decisions(rollout, after=0, limit=100)
    assert rows[0].reason == "started"
    failed = next(row for row in rows if row.verdict == "fail")
    assert failed.wave == 1
    assert failed.numbers["failed"] == 1
    assert "wave 1 failed" in failed.sentence
