"""Attacks on what a device believes, by whoever holds the broker, a mirror, or the director's key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from agent.core import trust
from agent.core.state import Floor
from agent.core.trust import Known, Order
from shared.errors import UntrustedError
from shared.ids import (
    Epoch,
    Generation,
    HardwareProfileId,
    InstallationId,
    KeyId,
    MeasurementId,
    ModelName,
    ReleaseId,
    Sha256,
)
from shared.manifest import Component, artifact_path, digest, manifest_path, measurement_path
from shared.wire import DesiredComponent, Pulse, TargetRef, WantedMeasurement, body_digest
from tests.support.device_core import DIRECTOR, IDENTITY, NOON, Bench, release
from tests.support.manifests import manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.manifest import ReleaseManifest
    from shared.wire import Desired, DesiredModel

GENERIC = HardwareProfileId("generic")
WANTED = release("v3", counter=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    length_bytes: int
    sha256: Sha256
    release_counter: int = 7
    profiles: tuple[HardwareProfileId, ...] = (GENERIC,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Director:
    min_release_counter: int = 0
    installation_id: InstallationId = IDENTITY.installation_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    files: dict[str, Target]
    director: Director = field(default_factory=Director)


def target(ref: TargetRef) -> Target:
    return Target(length_bytes=ref.length_bytes, sha256=ref.sha256)


def repository(**changes: Target) -> Targets:
    """Return a repository that vouches for WANTED, with `manifest` or `artifact` changed."""
    files = {"manifest": target(WANTED.manifest), "artifact": target(WANTED.artifact), **changes}
    paths = {"manifest": WANTED.manifest.path, "artifact": WANTED.artifact.path}
    return Targets(files={paths[name]: file for name, file in files.items()})


def desired() -> Desired:
    return Bench(generation=5).desired(release("v1"))


def known(*, epoch: int = 1, generation: int = 4, digest_followed: Sha256 | None = None) -> Known:
    floor = Floor(key_id=DIRECTOR, epoch=Epoch(epoch), generation=Generation(generation))
    return Known(identity=IDENTITY, floor=floor, now=NOON, body_digest=digest_followed)


def test_desired_newer_is_accepted_from_its_bytes() -> None:
    read = trust.decode_desired(msgspec.json.encode(desired()))
    assert (read, trust.check_desired(read, known())) == (desired(), Order.NEWER)


def test_desired_same_is_recognised_by_its_body() -> None:
    assert (
        trust.check_desired(desired(), known(generation=5, digest_followed=body_digest(desired().body))) is Order.SAME
    )


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b"\xff", b'{"schema_version": "x"}', b'{"epoch": "\xff"}', b'{"x":' + b"[" * 60_000],
)
def test_attack_malformed_documents_refused(payload: bytes) -> None:
    with pytest.raises(UntrustedError, match="malformed_desired"):
        trust.decode_desired(payload)
    with pytest.raises(UntrustedError, match="malformed_pulse"):
        trust.decode_pulse(payload)


@pytest.mark.parametrize(
    ("field", "hostile"),
    [
        (b'"alpha":0.05', b'"alpha":0'),
        (b'"alpha":0.05', b'"alpha":-1'),
        (b'"max_latency_ratio":2.0', b'"max_latency_ratio":0'),
        (b'"max_flip_rate":0.1', b'"max_flip_rate":7'),
        (b'"expires_at":"2026-11-22T13:00:00Z"', b'"expires_at":"2026-11-22T13:00:00"'),
    ],
)
def test_attack_sealed_value_that_no_arithmetic_takes_refused(field: bytes, hostile: bytes) -> None:
    payload = msgspec.json.encode(replace(desired(), expires_at=NOON + timedelta(hours=1)))
    assert field in payload
    with pytest.raises(UntrustedError, match="malformed_desired"):
        trust.decode_desired(payload.replace(field, hostile))


def test_attack_replayed_generation_refused() -> None:
    with pytest.raises(UntrustedError, match="generation_not_newer"):
        trust.check_desired(desired(), known(generation=6))


def test_attack_replayed_epoch_refused() -> None:
    with pytest.raises(UntrustedError, match="generation_not_newer"):
        trust.check_desired(desired(), known(epoch=2, generation=0))


def test_attack_two_bodies_under_one_generation_refused() -> None:
    with pytest.raises(UntrustedError, match="generation_reused"):
        trust.check_desired(desired(), known(generation=5, digest_followed=Sha256("0" * 64)))


def test_desired_expiring_this_instant_refused() -> None:
    with pytest.raises(UntrustedError, match="expired"):
        trust.check_desired(replace(desired(), expires_at=NOON), known())


def pulse(serial: int = 3, **changes: object) -> Pulse:
    made = Pulse(installation_id=IDENTITY.installation_id, epoch=Epoch(1), serial=serial, issued_at=NOON)
    return replace(made, **changes)


def heard(serial: int) -> Known:
    return replace_floor(known(), serial)


def replace_floor(before: Known, serial: int) -> Known:
    floor = replace(before.floor, pulse_epoch=Epoch(1), pulse_serial=serial)
    return Known(identity=before.identity, floor=floor, now=before.now)


@pytest.mark.parametrize(("serial", "order"), [(2, Order.NEWER), (3, Order.SAME)])
def test_pulse_order_follows_the_serial(serial: int, order: Order) -> None:
    read = trust.decode_pulse(msgspec.json.encode(pulse()))
    assert trust.check_pulse(read, heard(serial)) is order


def test_attack_replayed_pulse_refused() -> None:
    with pytest.raises(UntrustedError, match="serial_not_newer"):
        trust.check_pulse(pulse(), heard(4))


def test_pulse_of_higher_epoch_restarts_the_serials() -> None:
    assert trust.check_pulse(pulse(1, epoch=Epoch(2)), heard(400)) is Order.NEWER


def test_attack_pulse_of_another_installation_refused() -> None:
    with pytest.raises(UntrustedError, match="wrong_installation"):
        trust.check_pulse(pulse(installation_id=InstallationId("other")), heard(2))


@pytest.mark.parametrize(("ahead", "refused"), [(timedelta(minutes=4), False), (timedelta(minutes=6), True)])
def test_pulse_ahead_of_the_clock_is_taken_within_the_skew(ahead: timedelta, *, refused: bool) -> None:
    made = pulse(issued_at=NOON + ahead)
    if not refused:
        assert trust.check_pulse(made, heard(2)) is Order.NEWER
        return
    with pytest.raises(UntrustedError, match="from_the_future"):
        trust.check_pulse(made, heard(2))


# --- time ----------------------------------------------------------------------------------------

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("issued", "verified", "until", "proven"),
    [
        (NOON, None, None, None),
        (NOON, None, NOON + DAY, NOON),
        (NOON + 9 * DAY, None, NOON + DAY, NOON + DAY),
        (NOON - DAY, NOON, NOON + DAY, NOON),
        (NOON + DAY, NOON, None, NOON),
    ],
)
def test_time_is_proven_only_up_to_the_repositorys_expiry(
    issued: object, verified: object, until: object, proven: object
) -> None:
    assert trust.proven_time(issued, verified_at=verified, trusted_until=until) == proven  # type: ignore[arg-type]


def test_floors_are_kept_apart_by_key_and_the_longest_unused_is_forgotten() -> None:
    floors: tuple[Floor, ...] = ()
    for number in range(12):
        floors = trust.with_floor(floors, Floor(key_id=KeyId(f"k{number}"), generation=Generation(number)))
    assert len(floors) == 8
    assert trust.floor_of(floors, KeyId("k11")).generation == 11
    assert trust.floor_of(floors, KeyId("k0")).generation == 0


# --- against the repository ----------------------------------------------------------------------


def test_cross_check_of_agreeing_documents_passes() -> None:
    trust.cross_check(WANTED, repository())


def test_attack_director_names_a_file_that_is_not_released() -> None:
    with pytest.raises(UntrustedError, match="not in the repository"):
        trust.cross_check(WANTED, Targets(files={}))


@pytest.mark.parametrize(
    "changed",
    [
        repository(artifact=Target(length_bytes=21, sha256=WANTED.artifact.sha256)),
        repository(artifact=Target(length_bytes=20, sha256=digest(b"evil"))),
        repository(manifest=Target(length_bytes=10, sha256=digest(b"evil"))),
        repository(manifest=Target(length_bytes=10, sha256=WANTED.manifest.sha256, release_counter=8)),
        repository(
            artifact=Target(length_bytes=20, sha256=WANTED.artifact.sha256, profiles=(HardwareProfileId("npu"),))
        ),
        Targets(files=repository().files, director=Director(min_release_counter=8)),
    ],
    ids=["length", "artifact", "manifest", "counter", "profile", "below-the-signed-minimum"],
)
def test_attack_director_and_repository_disagree(changed: Targets) -> None:
    with pytest.raises(UntrustedError, match="untrusted"):
        trust.cross_check(WANTED, changed)


@pytest.mark.parametrize(
    "forged",
    [
        replace(WANTED, manifest=replace(WANTED.manifest, path=manifest_path(ReleaseId("v1")))),
        replace(WANTED, artifact=replace(WANTED.artifact, path="artifacts/../../etc/passwd")),
        replace(WANTED, release_id=ReleaseId("v4")),
    ],
)
def test_attack_director_points_one_release_at_anothers_files(forged: DesiredModel) -> None:
    with pytest.raises(UntrustedError, match="untrusted"):
        trust.cross_check(forged, repository())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, release_id=ReleaseId("v9")),
        lambda m: replace(m, model=ModelName("faces")),
        lambda m: replace(m, release_counter=6),
        lambda m: replace(m, artifacts=()),
        lambda m: replace(m, artifacts=(replace(m.artifacts[0], length_bytes=99),)),
        lambda m: replace(m, artifacts=(replace(m.artifacts[0], profiles=()),)),
    ],
)
def test_attack_manifest_of_something_else(change: Callable[[ReleaseManifest], ReleaseManifest]) -> None:
    with pytest.raises(UntrustedError, match="untrusted"):
        trust.check_manifest(WANTED, change(manifest(WANTED)))


def test_manifest_that_agrees_gives_the_wanted_artifact() -> None:
    assert trust.check_manifest(WANTED, manifest(WANTED)).sha256 == WANTED.artifact.sha256


# --- models of other releases --------------------------------------------------------------------

LARGE = TargetRef(path=artifact_path(digest(b"large")), length_bytes=5, sha256=digest(b"large"))
WITH_LARGE = replace(WANTED, components=(DesiredComponent(name="large", artifact=LARGE),))
LARGE_TARGET = Target(length_bytes=5, sha256=LARGE.sha256)


def with_large(**changes: object) -> ReleaseManifest:
    made = manifest(WANTED)
    part = replace(made.artifacts[0], path=LARGE.path, sha256=LARGE.sha256, length_bytes=5)
    other = Component(
        name="large",
        model=ModelName("large"),
        release_id=ReleaseId("l1"),
        artifacts=(replace(part, **changes),),
    )
    return replace(made, components=(other,))


def test_components_that_repository_and_manifest_have_pass() -> None:
    trust.cross_check(WITH_LARGE, Targets(files={**repository().files, LARGE.path: LARGE_TARGET}))
    assert trust.check_manifest(WITH_LARGE, with_large()).sha256 == WANTED.artifact.sha256


@pytest.mark.parametrize(
    ("wanted", "target"),
    [
        (WITH_LARGE, None),
        (WITH_LARGE, Target(length_bytes=6, sha256=LARGE.sha256)),
        (WITH_LARGE, Target(length_bytes=5, sha256=LARGE.sha256, profiles=(HardwareProfileId("npu"),))),
        (
            replace(WANTED, components=(DesiredComponent(name="../large", artifact=LARGE),)),
            LARGE_TARGET,
        ),
        (
            replace(WANTED, components=(DesiredComponent(name="large", artifact=replace(LARGE, path="x")),)),
            LARGE_TARGET,
        ),
    ],
    ids=["unreleased", "length", "profile", "outside-of-the-folder", "elsewhere"],
)
def test_attack_director_names_a_component_that_the_repository_has_not(
    wanted: DesiredModel, target: Target | None
) -> None:
    files = {**repository().files, **({LARGE.path: target} if target is not None else {})}
    with pytest.raises(UntrustedError, match="untrusted"):
        trust.cross_check(wanted, Targets(files=files))


@pytest.mark.parametrize(
    ("wanted", "described"),
    [
        (WITH_LARGE, manifest(WANTED)),
        (WANTED, with_large()),
        (WITH_LARGE, with_large(sha256=digest(b"other"))),
        (WITH_LARGE, with_large(length_bytes=6)),
        (WITH_LARGE, with_large(profiles=())),
    ],
    ids=["none-in-manifest", "none-wanted", "other-file", "length", "profile"],
)
def test_attack_director_names_other_components_than_the_manifest(
    wanted: DesiredModel, described: ReleaseManifest
) -> None:
    with pytest.raises(UntrustedError, match="untrusted"):
        trust.check_manifest(wanted, described)


# --- artifacts that are only measured ------------------------------------------------------------

MEASURED = WantedMeasurement(
    measurement_id=MeasurementId("m1"),
    artifact=TargetRef(path=measurement_path(WANTED.artifact.sha256), length_bytes=20, sha256=WANTED.artifact.sha256),
)
VOUCHED = Target(length_bytes=20, sha256=WANTED.artifact.sha256, release_counter=0, profiles=())


def test_measurement_that_the_repository_vouches_for_passes() -> None:
    trust.check_measurement(MEASURED, Targets(files={MEASURED.artifact.path: VOUCHED}))


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        (MEASURED, {}),
        (MEASURED, {MEASURED.artifact.path: dataclasses.replace(VOUCHED, length_bytes=21)}),
        (MEASURED, {MEASURED.artifact.path: dataclasses.replace(VOUCHED, sha256=digest(b"evil"))}),
        (MEASURED, {MEASURED.artifact.path: dataclasses.replace(VOUCHED, profiles=(GENERIC,))}),
        (replace(MEASURED, artifact=WANTED.artifact), {WANTED.artifact.path: VOUCHED}),
    ],
    ids=["not-in-the-repository", "length", "digest", "of-a-release", "elsewhere"],
)
def test_attack_director_and_repository_disagree_on_a_measurement(
    wanted: WantedMeasurement, files: dict[str, Target]
) -> None:
    with pytest.raises(UntrustedError, match="untrusted"):
        trust.check_measurement(wanted, Targets(files=files))


def test_attack_artifact_that_is_only_measured_is_no_release() -> None:
    forged = replace(WANTED, artifact=MEASURED.artifact)
    files = {**repository().files, MEASURED.artifact.path: VOUCHED}
    with pytest.raises(UntrustedError, match="not where its digest belongs"):
        trust.cross_check(forged, Targets(files=files))
