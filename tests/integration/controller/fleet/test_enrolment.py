"""Who becomes a device, and who does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.errors import ForbiddenError, UnauthenticatedError
from controller.trust.tls import fingerprint_of
from shared.errors import ConflictError, InvalidIdError, InvalidInputError, LitefleetError, NotFoundError
from shared.ids import DeviceId, Sha256
from tests.support.fleet_broker import signing_request
from tests.support.fleet_world import HARDWARE, OPERATOR, FleetWorld, TestClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def invited(world: FleetWorld, name: str = "cam-1") -> str:
    invite = await world.fleet.register(name, site="north", labels={}, actor=OPERATOR)
    return invite.token


async def test_device_enrolled_gets_a_client_certificate_in_its_own_name(world: FleetWorld) -> None:
    key = new_key()
    token = await invited(world)
    enrolled = await world.fleet.enrol(token=token, csr_pem=signing_request(key), hardware=HARDWARE)
    certificate = x509.load_pem_x509_certificate(enrolled.certificate.pem)
    assert [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["cam-1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (certificate.not_valid_after_utc - world.clock.now()).days == 30
    assert enrolled.certificate.fingerprint == fingerprint_of(key.public_key())


async def test_attack_signing_request_in_anothers_name_is_ignored(world: FleetWorld) -> None:
    token = await invited(world)
    request = signing_request(new_key(), common_name="controller")
    enrolled = await world.fleet.enrol(token=token, csr_pem=request, hardware=HARDWARE)
    certificate = x509.load_pem_x509_certificate(enrolled.certificate.pem)
    assert certificate.subject.rfc4514_string() == "CN=cam-1"


async def test_attack_device_registered_as_the_controller_is_refused(world: FleetWorld) -> None:
    with pytest.raises(InvalidInputError, match="controller's own name"):
        await invited(world, "controller")
    with pytest.raises(InvalidInputError, match="controller's own"):
        world.trust.authority.issue_device(signing_request(new_key()), DeviceId("controller"))


async def test_lost_reply_lets_the_same_key_try_again(world: FleetWorld) -> None:
    key, token = new_key(), await invited(world)
    first = await world.fleet.enrol(token=token, csr_pem=signing_request(key), hardware=HARDWARE)
    again = await world.fleet.enrol(token=token, csr_pem=signing_request(key), hardware=HARDWARE)
    assert again.certificate.fingerprint == first.certificate.fingerprint


async def test_attack_token_used_by_another_key_is_refused(world: FleetWorld) -> None:
    token = await invited(world)
    await world.fleet.enrol(token=token, csr_pem=signing_request(new_key()), hardware=HARDWARE)
    with pytest.raises(UnauthenticatedError):
        await world.fleet.enrol(token=token, csr_pem=signing_request(new_key()), hardware=HARDWARE)


async def test_attack_twenty_keys_race_for_one_token_one_wins(world: FleetWorld) -> None:
    token = await invited(world)
    won: list[Sha256] = []
    lost: list[str] = []

    async def attempt() -> None:
        try:
            enrolled = await world.fleet.enrol(token=token, csr_pem=signing_request(new_key()), hardware=HARDWARE)
            won.append(enrolled.certificate.fingerprint)
        except LitefleetError as refusal:
            lost.append(refusal.reason)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(attempt())
    assert (len(won), lost) == (1, ["unauthenticated"] * 19)
    assert await world.fleet.authenticate("cam-1", won[0]) == "cam-1"


async def test_same_key_racing_itself_gets_a_certificate_every_time(world: FleetWorld) -> None:
    key, token = new_key(), await invited(world)
    async with asyncio.TaskGroup() as tasks:
        attempts = [
            tasks.create_task(world.fleet.enrol(token=token, csr_pem=signing_request(key), hardware=HARDWARE))
            for _ in range(5)
        ]
    assert {attempt.result().device_id for attempt in attempts} == {"cam-1"}


async def test_token_expired_is_refused(world: FleetWorld, clock: TestClock) -> None:
    token = await invited(world)
    clock.forward(seconds=901)
    with pytest.raises(UnauthenticatedError):
        await world.fleet.enrol(token=token, csr_pem=signing_request(new_key()), hardware=HARDWARE)


async def test_token_guessed_is_refused_with_the_same_words(world: FleetWorld, clock: TestClock) -> None:
    token = await invited(world)
    said = []
    for guess in ("", "x" * 43, "\udcff"):
        with pytest.raises(UnauthenticatedError) as refusal:
            await world.fleet.enrol(token=guess, csr_pem=signing_request(new_key()), hardware=HARDWARE)
        said.append(str(refusal.value))
    clock.forward(days=1)
    with pytest.raises(UnauthenticatedError) as refusal:
        await world.fleet.enrol(token=token, csr_pem=signing_request(new_key()), hardware=HARDWARE)
    assert {*said, str(refusal.value)} == {str(refusal.value)}


async def test_token_is_not_in_the_database(world: FleetWorld, tmp_path_factory: pytest.TempPathFactory) -> None:
    token = await invited(world)
    folder = tmp_path_factory.getbasetemp()
    for path in folder.rglob("litefleet.db*"):
        assert token.encode() not in path.read_bytes()


async def test_second_invite_voids_the_first(world: FleetWorld) -> None:
    first = await invited(world)
    await invited(world)
    with pytest.raises(UnauthenticatedError):
        await world.fleet.enrol(token=first, csr_pem=signing_request(new_key()), hardware=HARDWARE)


async def test_attack_enrolled_device_cannot_be_invited_over(world: FleetWorld) -> None:
    await world.device("cam-1")
    with pytest.raises(ConflictError, match="remove it"):
        await invited(world)


@pytest.mark.parametrize(
    "request_pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        b"x" * 10_000,
        signing_request(new_key()).replace(b"\n", b"\nA", 2),
    ],
    ids=["empty", "garbage", "huge", "damaged"],
)
async def test_signing_request_unreadable_is_refused_and_spends_no_token(world: FleetWorld, request_pem: bytes) -> None:
    token = await invited(world)
    with pytest.raises(InvalidInputError, match="csr_pem"):
        await world.fleet.enrol(token=token, csr_pem=request_pem, hardware=HARDWARE)
    await world.fleet.enrol(token=token, csr_pem=signing_request(new_key()), hardware=HARDWARE)


@pytest.mark.parametrize("kind", ["rsa", "p224", "p384"])
async def test_attack_weak_or_foreign_key_is_refused(world: FleetWorld, kind: str) -> None:
    keys: dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    }
    with pytest.raises(InvalidInputError, match="P-256"):
        await world.fleet.enrol(token=await invited(world), csr_pem=signing_request(keys[kind]()), hardware=HARDWARE)


@pytest.mark.parametrize("name", ["", "Cam", "a/b", "a+b", "#", "../x", "a" * 64, "-a"])
async def test_device_name_that_could_reach_a_topic_is_refused(world: FleetWorld, name: str) -> None:
    with pytest.raises(InvalidIdError):
        await invited(world, name)


async def test_certificate_of_another_key_speaks_for_nobody(world: FleetWorld) -> None:
    await world.device("cam-1")
    with pytest.raises(ForbiddenError):
        await world.fleet.authenticate("cam-1", fingerprint_of(new_key().public_key()))
    with pytest.raises(ForbiddenError):
        await world.fleet.authenticate("cam-2", fingerprint_of(new_key().public_key()))


async def test_renewal_certifies_the_known_key_only(world: FleetWorld, clock: TestClock) -> None:
    device = await world.device("cam-1")
    clock.forward(days=20)
    renewed = await world.fleet.renew(device.device_id, signing_request(device.key))
    assert renewed.fingerprint == device.fingerprint
    assert (renewed.expires_at - clock.now()).days == 30
    with pytest.raises(InvalidInputError, match="another key"):
        await world.fleet.renew(device.device_id, signing_request(new_key()))


async def test_sessions_grow_for_ever(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    boots = [device.boot_id]
    keys = [device.mac_key]
    for _ in range(3):
        await world.boot(device)
        boots.append(device.boot_id)
        keys.append(device.mac_key)
    assert boots == sorted(boots)
    assert len(set(boots)) == len(set(keys)) == 4


async def test_device_removed_is_refused_everywhere(world: FleetWorld) -> None:
    device = await world.device("cam-1", labels={"line": "a"})
    await world.fleet.remove("cam-1", actor=OPERATOR)
    with pytest.raises(ForbiddenError):
        await world.fleet.authenticate("cam-1", device.fingerprint)
    with pytest.raises(NotFoundError):
        await world.fleet.remove("cam-1", actor=OPERATOR)
    with pytest.raises(NotFoundError):
        await world.fleet.label("cam-1", {}, actor=OPERATOR)
    assert "user cam-1\ntopic deny lf/v1/#" in world.acl_file.read_text()
    assert (await world.fleet.show("cam-1")).explanation == "removed from the fleet"


async def test_device_removed_and_invited_anew_is_another_device(world: FleetWorld) -> None:
    old = await world.device("cam-1")
    await world.fleet.remove("cam-1", actor=OPERATOR)
    new = await world.device("cam-1")
    assert new.boot_id > old.boot_id
    assert "cam-1" not in world.acl_file.read_text()
    with pytest.raises(ForbiddenError):
        await world.fleet.authenticate("cam-1", old.fingerprint)


async def test_attack_guessed_tokens_do_not_wait_for_the_writer(world: FleetWorld) -> None:
    request = signing_request(new_key())
    async with world.database.unit_of_work(), asyncio.timeout(10):
        with pytest.raises(UnauthenticatedError):
            await world.fleet.enrol(token="guessed", csr_pem=request, hardware=HARDWARE)
