"""Which deltas are made: those that devices will ask for, once, and not without end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.deltas.core.pairs import MAX_PER_ARTIFACT, RETRY_AFTER, DeltaRecord, DeltaState, Pair, pairs, to_make
from shared.ids import HardwareProfileId, Sha256

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BIG, SMALL = HardwareProfileId("big"), HardwareProfileId("small")


def sha(name: str) -> Sha256:
    return Sha256(name)


def pair(old: str, new: str = "new") -> Pair:
    return Pair(old=sha(old), new=sha(new))


def record(one: Pair, state: DeltaState, *, age: timedelta = timedelta(0)) -> DeltaRecord:
    return DeltaRecord(pair=one, state=state, length_bytes=1, full_bytes=2, delta_sha256=None, message="", at=NOW - age)


def test_pairs_stay_within_a_profile() -> None:
    old = {BIG: sha("b1"), SMALL: sha("s1")}
    assert pairs([old], {BIG: sha("b2"), SMALL: sha("s2")}) == (pair("b1", "b2"), pair("s1", "s2"))


def test_profile_that_a_release_does_not_serve_makes_no_pair() -> None:
    assert pairs([{BIG: sha("b1")}], {SMALL: sha("s2")}) == ()


def test_artifact_that_both_releases_share_makes_no_pair() -> None:
    assert pairs([{BIG: sha("b1")}], {BIG: sha("b1")}) == ()


def test_pair_of_several_profiles_or_releases_is_one() -> None:
    assert pairs([{BIG: sha("a"), SMALL: sha("a")}, {BIG: sha("a")}], {BIG: sha("new"), SMALL: sha("new")}) == (
        pair("a"),
    )


def test_most_common_release_comes_first() -> None:
    assert pairs([{BIG: sha("z")}, {BIG: sha("a")}], {BIG: sha("new")}) == (pair("z"), pair("a"))


@pytest.mark.parametrize("state", [DeltaState.MADE, DeltaState.NOT_WORTH_IT])
def test_pair_that_is_settled_is_never_made_again(state: DeltaState) -> None:
    known = {pair("a"): record(pair("a"), state, age=timedelta(days=900))}
    assert to_make([pair("a")], known, NOW) == ()


def test_pair_that_failed_is_tried_again_later() -> None:
    early = record(pair("a"), DeltaState.FAILED, age=RETRY_AFTER - timedelta(seconds=1))
    late = record(pair("a"), DeltaState.FAILED, age=RETRY_AFTER)
    assert to_make([pair("a")], {pair("a"): early}, NOW) == ()
    assert to_make([pair("a")], {pair("a"): late}, NOW) == (pair("a"),)


def test_deltas_to_one_artifact_are_bounded() -> None:
    wanted = [pair(f"old-{number}") for number in range(MAX_PER_ARTIFACT + 3)]
    assert to_make(wanted, {}, NOW) == tuple(wanted[:MAX_PER_ARTIFACT])
    known = {one: record(one, DeltaState.MADE) for one in wanted[:MAX_PER_ARTIFACT]}
    assert to_make(wanted, known, NOW) == ()
    assert to_make([*wanted, pair("x", "other")], known, NOW) == (pair("x", "other"),)
