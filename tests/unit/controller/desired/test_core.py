"""What devices should run, and when they are behind it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.desired.core.compose import Wishes, apply, compose
from controller.desired.core.document import Document, Standing, standing
from shared.ids import DeviceId, Epoch, Generation, ModelName, Sha256
from shared.wire import NO_BODY, Heartbeat, body_digest
from tests.support.fleet_world import intent

if TYPE_CHECKING:
    import random

    from controller.facts import SetRelease

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CAM = DeviceId("cam-1")
PATIENCE = timedelta(seconds=60)
DOCUMENT = Document(
    device_id=CAM,
    epoch=Epoch(1),
    generation=Generation(3),
    body_digest=NO_BODY,
    sealed=b"sealed",
    issued_at=NOW,
    expires_at=NOW + timedelta(days=14),
    published=True,
    published_at=NOW - timedelta(hours=1),
)

models = st.sampled_from(["digits", "faces", "doors"]).map(ModelName)
intents = st.builds(
    lambda model, release, letter: intent(CAM, release, model=model, letter=letter),
    models,
    st.sampled_from([None, "r1", "r2"]),
    st.sampled_from("abc"),
)


@given(st.lists(intents, max_size=8))
def test_intents_applied_together_or_one_by_one_come_to_the_same(wanted: list[SetRelease]) -> None:
    one_by_one: Wishes = {}
    for single in wanted:
        one_by_one = apply(one_by_one, [single])
    assert apply({}, wanted) == one_by_one


@given(st.lists(intents, max_size=8), st.randoms(use_true_random=False))
def test_equal_wishes_have_equal_digests_in_whatever_order_they_came(
    wanted: list[SetRelease], chance: random.Random
) -> None:
    wishes = apply({}, wanted)
    shuffled = list(wishes.items())
    chance.shuffle(shuffled)
    assert body_digest(compose(dict(shuffled))) == body_digest(compose(wishes))


def test_wish_taken_away_and_given_back_is_the_same_wish() -> None:
    first = apply({}, [intent(CAM)])
    assert apply(first, [intent(CAM, None), intent(CAM)]) == first
    assert apply(first, [intent(CAM, None)]) == {}
    assert apply({}, [intent(CAM, None)]) == {}


def test_override_names_the_artifact_that_may_be_tried_again() -> None:
    overriding = replace(intent(CAM, letter="b"), override_blacklist=True)
    body = compose(apply({}, [overriding, intent(CAM, "f1", model=ModelName("faces"))]))
    assert body.blacklist_overrides == ("b" * 64,)
    assert [model.model for model in body.models] == ["digits", "faces"]


def test_release_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="no artifact"):
        apply({}, [replace(intent(CAM), choice=None)])


@pytest.mark.parametrize(
    ("heartbeat", "changes", "expected"),
    [
        ((1, 3, NO_BODY), {}, Standing.LEVEL),
        ((1, 2, NO_BODY), {}, Standing.BEHIND),
        ((0, 9, NO_BODY), {}, Standing.BEHIND),
        ((1, 3, Sha256("1" * 64)), {}, Standing.BEHIND),
        ((1, 4, NO_BODY), {}, Standing.AHEAD),
        ((2, 0, NO_BODY), {}, Standing.AHEAD),
        ((1, 2, NO_BODY), {"published_at": NOW - timedelta(seconds=59)}, Standing.WAITING),
        ((1, 2, NO_BODY), {"published_at": NOW - timedelta(seconds=60)}, Standing.BEHIND),
        ((1, 2, NO_BODY), {"published_at": NOW + timedelta(days=400)}, Standing.BEHIND),
        ((1, 2, NO_BODY), {"published": False}, Standing.WAITING),
        ((1, 2, NO_BODY), {"published_at": None}, Standing.WAITING),
    ],
)
def test_standing_of_a_device_beside_its_document(
    heartbeat: tuple[int, int, Sha256], changes: dict[str, datetime | bool | None], expected: Standing
) -> None:
    epoch, generation, digest = heartbeat
    beat = Heartbeat(epoch=Epoch(epoch), generation=Generation(generation), body_digest=digest, pulse_serial=1)
    document = replace(DOCUMENT, **changes)  # type: ignore[arg-type]  # a table of fields of several types
    assert standing(document, beat, now=NOW, patience=PATIENCE) is expected
