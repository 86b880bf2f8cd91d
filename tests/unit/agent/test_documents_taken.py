"""Desired and Pulse as the core takes them: order, expiry, freshness."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.core import events as ev
from agent.core.commands import FetchRelease, PublishReport, RequestDocuments
from agent.core.state import Phase
from shared.ids import DeviceId, Epoch, Generation, InstallationId, KeyId, ModelName, Sha256
from shared.wire import AssignmentStatus, body_digest
from tests.support.device_core import DIRECTOR, NOON, Bench, only, release

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.wire import Desired


def started() -> Bench:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    return bench


def staged(bench: Bench) -> None:
    """Bring v2 to the door, with no fresh Pulse to open it."""
    bench.wait(1000)
    bench.desire(release("v2"))
    bench.stage("v2")


@pytest.mark.parametrize(
    ("forge", "word"),
    [
        (lambda d: replace(d, installation_id=InstallationId("other")), "wrong_installation"),
        (lambda d: replace(d, device_id=DeviceId("dev-2")), "wrong_device"),
        (lambda d: replace(d, key_fingerprint=Sha256("0" * 64)), "wrong_key"),
        (lambda d: replace(d, expires_at=NOON - timedelta(days=1)), "expired"),
        (lambda d: replace(d, generation=Generation(0)), "generation_not_newer"),
        (lambda d: replace(d, epoch=Epoch(0), generation=Generation(99)), "generation_not_newer"),
        (lambda d: replace(d, generation=Generation(1)), "generation_reused"),
        (lambda d: replace(d, body=replace(d.body, models=d.body.models * 2)), "duplicate_model"),
    ],
)
def test_desired_that_must_not_be_followed_is_refused_and_told(forge: Callable[[Desired], Desired], word: str) -> None:
    bench = started()
    followed = bench.state.desired
    bench.generation = 2
    forged = forge(bench.desired(release("v2")))
    bench.feed(ev.DesiredReceived(at=bench.at, desired=forged, key_id=DIRECTOR))
    assert bench.report.desired_refused.partition(":")[0] == word
    assert (bench.state.desired, bench.route.primary) == (followed, "v1")


def test_desired_unreadable_is_told_until_a_good_one_comes() -> None:
    bench = started()
    bench.feed(ev.DesiredRefused(at=bench.at, reason="unseal_failed: x"))
    assert bench.report.desired_refused == "unseal_failed: x"
    bench.desire(release("v1"))
    assert not bench.report.desired_refused


def test_desired_of_higher_epoch_wins_over_higher_generation() -> None:
    bench = started()
    bench.desire(release("v1"), generation=50)
    bench.desire(release("v2"), epoch=2, generation=1)
    assert bench.model.phase is Phase.DOWNLOADING
    bench.desire(release("v1"), epoch=1, generation=51)
    assert bench.report.desired_refused.startswith("generation_not_newer")


def test_same_desired_again_is_reported_again() -> None:
    bench = started()
    (report,) = only(bench.desire(release("v1"), generation=bench.generation), PublishReport)
    assert report.report.generation == 1


def test_resealed_desired_moves_only_the_expiry() -> None:
    bench = started()
    bench.at += timedelta(days=3)
    bench.desire(release("v1"), generation=bench.generation)
    assert bench.state.desired is not None
    assert bench.state.desired.expires_at == bench.at + timedelta(days=7)


def test_desired_digest_is_reported() -> None:
    bench = started()
    assert bench.state.desired is not None
    assert bench.report.body_digest == body_digest(bench.state.desired.body)


def test_new_director_key_starts_with_its_own_floor() -> None:
    bench = started()
    bench.desire(release("v1"), generation=70)
    bench.generation = 1
    other = KeyId("e" * 64)
    bench.feed(ev.DesiredReceived(at=bench.at, desired=bench.desired(release("v2")), key_id=other))
    assert bench.model.phase is Phase.DOWNLOADING


def test_old_desired_of_a_key_that_was_replaced_is_refused() -> None:
    bench = started()
    replayed = bench.state.desired
    assert replayed is not None
    other = KeyId("e" * 64)
    bench.feed(ev.DesiredReceived(at=bench.at, desired=bench.desired(release("v2")), key_id=other))
    bench.feed(ev.DesiredReceived(at=bench.at, desired=replayed, key_id=DIRECTOR))
    assert bench.report.desired_refused.startswith("generation_not_newer")


@pytest.mark.parametrize("phase", [Phase.DOWNLOADING, Phase.TRIAL])
def test_newer_desired_pre_empts_work_on_an_older_one(phase: Phase) -> None:
    bench = started()
    bench.desire(release("v2"))
    if phase is Phase.TRIAL:
        bench.fetched("v2")
    (fetch,) = only(bench.desire(release("v3")), FetchRelease)
    assert fetch.release.release_id == "v3"
    assert bench.assignment("v2").status is AssignmentStatus.SUPERSEDED


def test_desired_that_goes_back_to_stable_ends_the_candidate() -> None:
    bench = started()
    bench.desire(release("v2"))
    bench.desire(release("v1"))
    assert bench.model.phase is Phase.IDLE
    assert bench.assignment("v1").status is AssignmentStatus.SUCCEEDED


def test_models_are_independent() -> None:
    bench = started()
    other = release("w1", model=ModelName("faces"))
    bench.desire(release("v1"), other)
    assert [(m.model, m.phase) for m in bench.state.models] == [("digits", Phase.IDLE), ("faces", Phase.DOWNLOADING)]
    bench.desire(other)
    assert [m.model for m in bench.state.models] == ["faces"]


# --- freshness -----------------------------------------------------------------------------------


def test_stale_pulse_keeps_the_candidate_staged_until_a_fresh_one_comes() -> None:
    bench = started()
    staged(bench)
    told = bench.assignment("v2")
    assert (told.phase, told.reason, bench.report.stale) == ("staged", "stale_pulse", True)
    bench.pulse()
    assert (bench.route.shadow, bench.report.stale) == ("v2", False)


def test_pulse_as_old_as_allowed_still_authorises() -> None:
    bench = started()
    bench.pulse()
    bench.wait(900)
    bench.desire(release("v2"))
    bench.stage("v2")
    assert bench.route.shadow == "v2"


def test_repeated_pulse_does_not_become_young_again() -> None:
    bench = started()
    bench.pulse()
    again = bench.state.pulse
    assert again is not None
    staged(bench)
    bench.feed(ev.PulseReceived(at=bench.at, pulse=again, key_id=DIRECTOR))
    assert bench.model.phase is Phase.STAGED


def test_replayed_pulse_of_lower_serial_is_ignored() -> None:
    bench = started()
    bench.pulse()
    old = bench.state.pulse
    bench.pulse(r_v2="stop")
    assert old is not None
    bench.feed(ev.PulseReceived(at=bench.at, pulse=old, key_id=DIRECTOR))
    assert bench.state.pulse is not None
    assert bench.state.pulse.halted == {"r-v2": "stop"}


def test_pulse_of_another_installation_authorises_nothing() -> None:
    bench = started()
    pulse = bench.state.pulse
    assert pulse is not None
    staged(bench)
    forged = replace(pulse, serial=99, issued_at=bench.at, installation_id=InstallationId("other"))
    bench.feed(ev.PulseReceived(at=bench.at, pulse=forged, key_id=DIRECTOR))
    assert bench.model.phase is Phase.STAGED


def test_pulse_from_the_future_authorises_nothing() -> None:
    bench = started()
    pulse = bench.state.pulse
    assert pulse is not None
    staged(bench)
    forged = replace(pulse, serial=99, issued_at=bench.at + timedelta(days=365))
    bench.feed(ev.PulseReceived(at=bench.at, pulse=forged, key_id=DIRECTOR))
    assert bench.model.phase is Phase.STAGED


def test_pulse_of_an_earlier_epoch_authorises_nothing() -> None:
    bench = started()
    bench.desire(release("v2"), epoch=2)
    bench.stage("v2")
    bench.pulse()
    assert bench.model.phase is Phase.STAGED


def test_pulse_from_before_a_restart_authorises_nothing() -> None:
    bench = started()
    bench.pulse()
    bench.start()
    bench.desire(release("v2"))
    bench.stage("v2")
    assert bench.assignment("v2").reason == "no_pulse"


def test_passed_comparison_waits_for_a_fresh_pulse_before_the_candidate_answers() -> None:
    bench = started()
    bench.desire(release("v2"))
    bench.stage("v2")
    bench.applied()
    bench.wait(1000)
    bench.measured("v2")
    assert (bench.route.primary, bench.assignment("v2").reason) == ("v1", "stale_pulse")
    bench.pulse()
    assert bench.route.primary == "v2"


def test_expired_desired_keeps_serving_and_activates_nothing() -> None:
    bench = started()
    bench.wait(1000)
    bench.desire(release("v2"))
    bench.at += timedelta(days=8)
    bench.stage("v2")
    bench.pulse()
    told = bench.assignment("v2")
    assert (told.phase, told.reason) == ("staged", "stale_desired")
    assert (bench.route.primary, bench.report.stale) == ("v1", True)


def test_stale_device_asks_over_https_soon() -> None:
    bench = started()
    asked = [only(bench.wait(30), RequestDocuments) for _ in range(40)]
    assert sum(map(len, asked)) >= 3


def test_documents_are_asked_for_hourly_with_splay() -> None:
    bench = started()
    waits, last = [], bench.at
    for _ in range(6 * 60 * 6):
        bench.pulse()
        if only(bench.wait(10), RequestDocuments):
            waits.append((bench.at - last).total_seconds())
            last = bench.at
    assert len(waits) >= 4
    assert all(0.7 * 3600 < wait < 1.3 * 3600 for wait in waits[1:])
    assert len(set(waits)) > 1


# --- time ----------------------------------------------------------------------------------------


def test_clock_that_went_back_does_not_revive_an_expired_desired() -> None:
    bench = started()
    bench.feed(ev.TrustRefreshed(at=bench.at, expires_at=NOON + timedelta(days=90)))
    bench.at += timedelta(days=30)
    bench.pulse()
    bench.at = NOON
    bench.generation = 5
    bench.desire(release("v2"))
    assert bench.report.desired_refused.startswith("expired")


def test_document_time_beyond_the_repositorys_expiry_moves_no_floor() -> None:
    bench = started()
    bench.feed(ev.TrustRefreshed(at=bench.at, expires_at=NOON + timedelta(days=1)))
    bench.generation = 5
    far = replace(bench.desired(release("v1")), issued_at=NOON + timedelta(days=3650))
    bench.feed(ev.DesiredReceived(at=bench.at, desired=far, key_id=DIRECTOR))
    assert bench.state.verified_at == NOON + timedelta(days=1)


def test_device_whose_clock_stands_in_1970_learns_the_time_and_activates() -> None:
    bench = started()
    real = bench.at + timedelta(hours=1)
    bench.at = NOON.replace(year=1970)
    bench.start()
    bench.feed(ev.TrustRefreshed(at=bench.at, expires_at=real + timedelta(days=90)))
    assert bench.state.pulse is not None
    fresh = replace(bench.state.pulse, serial=99, issued_at=real)
    bench.feed(ev.PulseReceived(at=bench.at, pulse=fresh, key_id=DIRECTOR))
    bench.generation = 9
    told = replace(bench.desired(release("v2")), issued_at=real, expires_at=real + timedelta(days=7))
    bench.feed(ev.DesiredReceived(at=bench.at, desired=told, key_id=DIRECTOR))
    bench.stage("v2")
    assert bench.route.shadow == "v2"


def test_clock_set_back_behind_the_pulses_arrival_makes_it_stale() -> None:
    bench = started()
    bench.pulse()
    bench.at -= timedelta(hours=1)
    bench.desire(release("v2"))
    bench.stage("v2")
    assert bench.model.phase is Phase.STAGED
    bench.at += timedelta(minutes=59, seconds=30)
    bench.wait(0)
    assert bench.route.shadow == "v2"


def test_attack_forgery_repeated_changes_nothing_twice() -> None:
    bench = started()
    forged = ev.DesiredRefused(at=bench.at, reason="unseal_failed: no signature by a trusted key")
    bench.feed(forged)
    before = bench.state
    bench.feed(forged)
    assert bench.state is before


def test_device_whose_clock_stands_still_finds_its_pulse_stale_all_the_same() -> None:
    bench = started()
    bench.feed(ev.TrustRefreshed(at=bench.at, expires_at=NOON + timedelta(days=900)))
    assert bench.state.pulse is not None
    bench.feed(
        ev.PulseReceived(
            at=bench.at,
            pulse=replace(bench.state.pulse, serial=99, issued_at=NOON + timedelta(days=365)),
            key_id=DIRECTOR,
        )
    )
    bench.wait(901)
    assert bench.report.stale
