"""What devices should run: composed, sealed, published, and told again to those who missed it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.desired import store
from controller.facts import SeenHeartbeat
from controller.trust.director import Director
from shared import topics
from shared.errors import UnsealError
from shared.ids import DeviceId, ModelName, ReleaseId, RolloutId
from shared.wire import Desired, HaltMode, body_digest
from tests.support.fleet_broker import signing_request
from tests.support.fleet_world import DIGITS, HARDWARE, OPERATOR, FleetWorld, TestClock, TestDevice, heartbeat, intent

ROLLOUT = RolloutId("rollout-1")
FACES = ModelName("faces")


async def observed(world: FleetWorld, device: TestDevice, document: Desired | None) -> None:
    beat = heartbeat(document, body_digest(document.body)) if document else heartbeat()
    seen = SeenHeartbeat(
        device_id=device.device_id, boot_id=device.boot_id, seq=1, heartbeat=beat, received_at=world.clock.now()
    )
    async with world.database.unit_of_work() as uow:
        await world.desired.observed(uow, [seen])


async def test_release_set_is_sealed_for_its_device_alone(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    document = await world.document(device)
    assert (document.device_id, document.key_fingerprint) == ("cam-1", device.fingerprint)
    assert (document.epoch, document.generation) == (1, 1)
    assert document.installation_id == world.trust.installation_id
    assert [model.release_id for model in document.body.models] == ["r1"]
    assert document.expires_at - document.issued_at == timedelta(days=14)


async def test_attack_document_of_another_director_is_refused(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    thief = Director(Ed25519PrivateKey.generate())
    forged = thief.desired(await world.document(device))
    with pytest.raises(UnsealError, match="trusted key"):
        world.opened(forged)


async def test_same_wish_again_moves_no_generation(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    before = await world.desired.sealed_for(device.device_id)
    await world.desire(intent(device.device_id))
    assert await world.desired.sealed_for(device.device_id) == before


async def test_other_wish_moves_the_generation_by_one(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    await world.desire(intent(device.device_id, "r2", letter="b"), intent(device.device_id, "r3", letter="c"))
    document = await world.document(device)
    assert document.generation == 2
    assert document.body.models[0].release_id == "r3"


async def test_models_of_one_device_do_not_disturb_one_another(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id, "r1"))
    await world.desire(intent(device.device_id, "f1", model=FACES))
    await world.desire(intent(device.device_id, None))
    document = await world.document(device)
    assert [model.model for model in document.body.models] == [FACES]
    assert document.generation == 3
    async with world.database.unit_of_work(read_only=True) as uow:
        assert await world.desired.current(uow, [device.device_id], DIGITS) == {device.device_id: None}
        assert await world.desired.current(uow, [device.device_id], FACES) == {device.device_id: "f1"}


async def test_wishes_twice_in_one_transaction_see_one_another(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    async with world.database.unit_of_work() as uow:
        await world.desired.set_releases(uow, [intent(device.device_id, "r1")])
        await world.desired.set_releases(uow, [intent(device.device_id, "r2")])
        assert await world.desired.current(uow, [device.device_id], DIGITS) == {device.device_id: "r2"}
    assert (await world.document(device)).generation == 2


async def test_wish_for_a_device_that_has_not_enrolled_is_sealed_when_it_does(world: FleetWorld) -> None:
    invite = await world.fleet.register("cam-1", site="north", labels={}, actor=OPERATOR)
    await world.desire(intent(DeviceId("cam-1")))
    assert await world.desired.sealed_for(DeviceId("cam-1")) is None
    assert await world.publisher.publish_pending() == 0
    key = ec.generate_private_key(ec.SECP256R1())
    enrolled = await world.fleet.enrol(token=invite.token, csr_pem=signing_request(key), hardware=HARDWARE)
    device = TestDevice(enrolled.device_id, key, enrolled.certificate.fingerprint)
    assert (await world.document(device)).key_fingerprint == enrolled.certificate.fingerprint


async def test_pending_documents_are_published_retained_and_once(world: FleetWorld) -> None:
    devices = [await world.device(f"cam-{number}") for number in range(3)]
    await world.desire(*(intent(device.device_id) for device in devices))
    assert await world.publisher.publish_pending() == 3
    for device in devices:
        assert world.retained_for(device) == await world.desired.sealed_for(device.device_id)
    assert await world.publisher.publish_pending() == 0


async def test_documents_wait_while_the_broker_is_away(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    world.broker.connected = False
    assert await world.publisher.publish_pending() == 0
    world.broker.connected = True
    assert await world.publisher.publish_pending() == 1


async def test_broker_that_lost_its_memory_is_given_everything_again(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    await world.pulse.beat_if_due()
    await world.publisher.publish_pending()
    assert topics.SENTINEL in world.broker.retained
    world.broker.lose_memory()
    assert await world.publisher.publish_pending() == 1
    await world.pulse.beat_if_due()
    assert world.retained_for(device) is not None
    assert {topics.SENTINEL, topics.PULSE} <= world.broker.retained.keys()


async def test_broker_that_was_cut_off_is_given_again_what_it_may_not_have_saved(
    world: FleetWorld, clock: TestClock
) -> None:
    old, new = await world.device("cam-1"), await world.device("cam-2")
    await world.desire(intent(old.device_id))
    await world.publisher.publish_pending()
    clock.forward(minutes=10)
    await world.desire(intent(new.device_id))
    await world.publisher.publish_pending()
    world.broker.connections += 1
    world.broker.published.clear()
    assert await world.publisher.publish_pending() == 1
    assert [message.topic for message in world.broker.published] == [
        topics.device_topic(new.device_id, topics.Channel.DESIRED)
    ]


async def test_device_behind_is_told_again_but_not_with_every_heartbeat(world: FleetWorld, clock: TestClock) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    await world.publisher.publish_pending()
    await observed(world, device, None)
    assert await world.publisher.publish_pending() == 0
    clock.forward(seconds=61)
    await observed(world, device, None)
    assert await world.publisher.publish_pending() == 1
    clock.forward(seconds=30)
    await observed(world, device, None)
    assert await world.publisher.publish_pending() == 0


async def test_device_level_or_ahead_is_not_told_again(world: FleetWorld, clock: TestClock) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    await world.publisher.publish_pending()
    clock.forward(seconds=61)
    document = await world.document(device)
    await observed(world, device, document)
    ahead = Desired(
        installation_id=document.installation_id,
        device_id=document.device_id,
        key_fingerprint=document.key_fingerprint,
        epoch=document.epoch,
        generation=type(document.generation)(document.generation + 5),
        body=document.body,
        issued_at=document.issued_at,
        expires_at=document.expires_at,
    )
    await observed(world, device, ahead)
    assert await world.publisher.publish_pending() == 0
    assert "--recovered-from-backup" in (await story_after_heartbeat(world, device, ahead))


async def story_after_heartbeat(world: FleetWorld, device: TestDevice, document: Desired) -> str:
    seen = SeenHeartbeat(
        device_id=device.device_id,
        boot_id=device.boot_id,
        seq=1,
        heartbeat=heartbeat(document),
        received_at=world.clock.now(),
    )
    async with world.database.unit_of_work() as uow:
        await world.uplinks.seen(uow, [seen])
    return (await world.fleet.show(device.device_id)).explanation


async def test_reseal_keeps_generation_and_digest_and_moves_the_expiry(world: FleetWorld, clock: TestClock) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    before = await world.document(device)
    assert await world.desired.reseal_due() == 0
    clock.forward(days=8)
    assert await world.desired.reseal_due() == 1
    after = await world.document(device)
    assert (after.generation, body_digest(after.body)) == (before.generation, body_digest(before.body))
    assert after.expires_at - before.expires_at == timedelta(days=8)
    assert await world.publisher.publish_pending() == 1


async def test_epoch_raised_seals_everything_again_as_newer(world: FleetWorld) -> None:
    devices = [await world.device(f"cam-{number}") for number in range(3)]
    await world.desire(*(intent(device.device_id) for device in devices))
    async with world.database.unit_of_work() as uow:
        assert await world.desired.raise_epoch(uow) == 2
    assert await world.desired.reseal_due(limit=2) == 2
    assert await world.desired.reseal_due(limit=2) == 1
    assert await world.desired.reseal_due(limit=2) == 0
    pulse = world.opened_pulse(await world.pulse.sealed_pulse())
    assert (pulse.epoch, pulse.serial) == (2, 1)
    documents = [await world.document(device) for device in devices]
    assert {(document.epoch, document.generation) for document in documents} == {(2, 1)}


async def test_device_removed_has_its_topic_emptied_and_its_generation_kept(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    await world.publisher.publish_pending()
    await world.fleet.remove("cam-1", actor=OPERATOR)
    assert await world.publisher.publish_pending() == 1
    assert world.retained_for(device) == b""
    assert await world.desired.sealed_for(device.device_id) is None
    successor = await world.device("cam-1")
    assert await world.desired.sealed_for(device.device_id) is None
    await world.desire(intent(device.device_id))
    document = await world.document(successor)
    assert (document.generation, document.key_fingerprint) == (3, successor.fingerprint)


async def test_release_desired_of_somebody_is_in_use(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id, "r1"))
    async with world.database.unit_of_work(read_only=True) as uow:
        assert await world.desired.in_use(uow, ReleaseId("r1")) == "desired of 1 device"
        assert await world.desired.in_use(uow, ReleaseId("r2")) == ""


async def test_pulse_beats_at_its_interval_with_growing_serials(world: FleetWorld, clock: TestClock) -> None:
    serials = []
    for _ in range(3):
        await world.pulse.beat_if_due()
        await world.pulse.beat_if_due()
        serials.append(world.opened_pulse(world.broker.retained[topics.PULSE]).serial)
        clock.forward(seconds=300)
    assert serials == [1, 2, 3]
    assert len([message for message in world.broker.published if message.topic == topics.PULSE]) == 3


async def test_pulse_of_a_clock_that_was_set_back_is_replaced_at_once(world: FleetWorld, clock: TestClock) -> None:
    clock.forward(days=400)
    await world.pulse.beat_if_due()
    clock.forward(days=-400)
    await world.pulse.beat_if_due()
    pulse = world.opened_pulse(world.broker.retained[topics.PULSE])
    assert (pulse.serial, pulse.issued_at) == (2, clock.now())


async def test_halt_reaches_the_next_pulse_at_once_and_over_https(world: FleetWorld) -> None:
    await world.pulse.beat_if_due()
    async with world.database.unit_of_work() as uow:
        await world.pulse.halt(uow, ROLLOUT, HaltMode.STOP)
    assert world.opened_pulse(await world.pulse.sealed_pulse()).halted == {ROLLOUT: HaltMode.STOP}
    await world.pulse.beat_if_due()
    assert world.opened_pulse(world.broker.retained[topics.PULSE]).halted == {ROLLOUT: HaltMode.STOP}


async def test_halt_is_final_and_only_grows_stricter(world: FleetWorld) -> None:
    for mode in (HaltMode.STOP, HaltMode.REVERT, HaltMode.STOP):
        async with world.database.unit_of_work() as uow:
            await world.pulse.halt(uow, ROLLOUT, mode)
    pulse = world.opened_pulse(await world.pulse.sealed_pulse())
    assert (pulse.halted, pulse.serial) == ({ROLLOUT: HaltMode.REVERT}, 2)


async def test_halt_undone_with_its_transaction_is_not_broadcast(world: FleetWorld) -> None:
    with pytest.raises(RuntimeError):
        await halt_and_fail(world)
    assert world.opened_pulse(await world.pulse.sealed_pulse()).halted == {}


async def halt_and_fail(world: FleetWorld) -> None:
    async with world.database.unit_of_work() as uow:
        await world.pulse.halt(uow, ROLLOUT, HaltMode.REVERT)
        raise RuntimeError("undone")


async def test_halt_is_forgotten_only_when_no_device_could_still_hold_it(world: FleetWorld, clock: TestClock) -> None:
    device = await world.device("cam-1")
    await world.desire(intent(device.device_id))
    for rollout in (ROLLOUT, RolloutId("rollout-2")):
        async with world.database.unit_of_work() as uow:
            await world.pulse.halt(uow, rollout, HaltMode.STOP)
    clock.forward(days=29)
    assert world.opened_pulse(await world.pulse.sealed_pulse()).halted == {ROLLOUT: HaltMode.STOP}


async def test_pulse_of_many_halts_still_fits_and_keeps_the_newest(world: FleetWorld, clock: TestClock) -> None:
    names = [RolloutId(f"0190a000-0000-7000-8000-{number:012x}") for number in range(805)]
    async with world.database.unit_of_work() as uow:
        for name in names[:-1]:
            clock.forward(seconds=1)
            await store.write_halt(uow.session, name, HaltMode.REVERT, clock.now())
        clock.forward(seconds=1)
        await world.pulse.halt(uow, names[-1], HaltMode.REVERT)
    halted = world.opened_pulse(await world.pulse.sealed_pulse()).halted
    assert set(halted) == set(names[5:])
