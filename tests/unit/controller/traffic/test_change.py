"""What an order makes of what is set of a model on one device."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.desired.core.compose import apply, compose
from controller.facts import ModelTraffic
from controller.traffic.core.change import TrafficOrder, VariantOrder, changed, check
from shared.errors import InvalidInputError
from shared.ids import DeviceId, ReleaseId, RolloutId
from shared.request_log import LogWish
from shared.traffic import Arm, StickyBy, TrafficRule
from shared.wire import DesiredBody, DesiredComponent, ProbationPolicy, body_digest
from tests.support.fleet_world import DIGITS, choice, intent

FIRST, SECOND = RolloutId("change-1"), RolloutId("change-2")
BLUE = VariantOrder(release_id=ReleaseId("r4"), policy=ProbationPolicy())
CAM = DeviceId("cam-1")


def rule(*arms: tuple[str, int], shadow: str = "") -> TrafficRule:
    return TrafficRule(model=DIGITS, arms=tuple(Arm(variant=v, weight=w) for v, w in arms), shadow=shadow)


def bring(*names: str, **more: object) -> TrafficOrder:
    order = TrafficOrder(model=DIGITS, variants=dict.fromkeys(names, BLUE))
    return replace(order, **more)  # type: ignore[arg-type]  # a test names the fields that it means


def after(
    before: ModelTraffic, order: TrafficOrder, *, change: RolloutId = FIRST, halted: tuple[RolloutId, ...] = ()
) -> ModelTraffic:
    choices = {name: choice("b") for name in order.variants}
    return changed(before, order, choices, rollout_id=change, halted=halted)


def test_variant_brought_names_release_file_and_change() -> None:
    entry = after(ModelTraffic(), bring("blue")).variants["blue"].entry
    assert (entry.model, entry.variant, entry.release_id, entry.rollout_id, entry.attempt) == (
        "digits",
        "blue",
        "r4",
        "change-1",
        1,
    )
    assert entry.artifact.sha256 == "b" * 64


def test_same_order_again_keeps_the_change_that_brought_the_variant() -> None:
    first = after(ModelTraffic(), bring("blue"))
    assert after(first, bring("blue"), change=SECOND) == first


def test_variant_of_a_halted_change_is_brought_anew() -> None:
    first = after(ModelTraffic(), bring("blue"))
    again = after(first, bring("blue"), change=SECOND, halted=(FIRST,))
    assert again.variants["blue"].entry.rollout_id == SECOND


def test_other_policy_is_another_change() -> None:
    first = after(ModelTraffic(), bring("blue"))
    stricter = replace(BLUE, policy=ProbationPolicy(canary_share=0.1))
    again = after(first, TrafficOrder(model=DIGITS, variants={"blue": stricter}), change=SECOND)
    assert again.variants["blue"].entry.rollout_id == SECOND


def test_rule_stays_when_only_variants_change_and_the_other_way_round() -> None:
    first = after(ModelTraffic(), bring("blue", rule=rule(("main", 90), ("blue", 10))))
    greened = after(first, bring("green"), change=SECOND)
    assert (set(greened.variants), greened.rule) == ({"blue", "green"}, first.rule)
    even = after(greened, TrafficOrder(model=DIGITS, rule=rule(("main", 1), ("blue", 1))))
    assert set(even.variants) == {"blue", "green"}


@pytest.mark.parametrize(
    "order",
    [
        TrafficOrder(model=DIGITS, rule=rule(("main", 1), ("blue", 1))),
        TrafficOrder(model=DIGITS, rule=rule(("main", 1), shadow="blue")),
    ],
)
def test_rule_naming_a_variant_that_the_device_has_not_is_refused(order: TrafficOrder) -> None:
    with pytest.raises(
        InvalidInputError, match=r"rule: names blue, which the device does not have \(bring the variant"
    ):
        after(ModelTraffic(), order)


def test_removing_a_variant_that_the_rule_names_is_refused() -> None:
    first = after(ModelTraffic(), bring("blue", rule=rule(("main", 90), ("blue", 10))))
    with pytest.raises(InvalidInputError, match="names blue"):
        after(first, TrafficOrder(model=DIGITS, remove=("blue",)))
    both = after(first, TrafficOrder(model=DIGITS, remove=("blue",), rule=rule(("main", 1))))
    assert not both.variants


def test_clear_takes_variants_and_rule_away_but_not_the_request_log() -> None:
    log = LogWish(model=DIGITS, sample_rate=0.5)
    first = replace(after(ModelTraffic(), bring("blue", rule=rule(("blue", 1)))), log=log)
    assert after(first, TrafficOrder(model=DIGITS, clear=True)) == ModelTraffic(log=log)


@pytest.mark.parametrize(
    ("order", "field"),
    [
        (bring("main"), "variants.main"),
        (bring("Blue"), "variants.Blue"),
        (bring("a@b"), "variants.a@b"),
        (bring("blue", remove=("blue",)), "remove"),
        (bring("blue", clear=True), "clear"),
        (TrafficOrder(model=DIGITS), ""),
        (TrafficOrder(model=DIGITS, rule=rule(("main", 0))), "rule.arms"),
        (TrafficOrder(model=DIGITS, rule=rule(("main", 1), ("main", 1))), "rule.arms"),
        (TrafficOrder(model=DIGITS, rule=rule(("main", 1), shadow="main")), "rule.shadow"),
        (
            TrafficOrder(model=DIGITS, rule=msgspec.structs.replace(rule(("main", 1)), sticky_by=StickyBy.HEADER)),
            "rule.header",
        ),
        (
            TrafficOrder(
                model=DIGITS,
                rule=msgspec.structs.replace(rule(("main", 1)), sticky_by=StickyBy.HEADER, header="authorization"),
            ),
            "rule.header",
        ),
        (TrafficOrder(model=DIGITS, rule=msgspec.structs.replace(rule(("main", 1)), pins={"a": "main"})), "rule.pins"),
    ],
)
def test_order_that_no_device_could_carry_out_names_the_field(order: TrafficOrder, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check(order)
    assert caught.value.field == field


def test_nine_variants_are_too_many() -> None:
    with pytest.raises(InvalidInputError, match="variants: 9 of them"):
        after(ModelTraffic(), bring(*(f"v{number}" for number in range(9))))


def test_components_travel_with_a_variant() -> None:
    part = DesiredComponent(name="finder", artifact=choice("f").artifact)
    order = bring("blue")
    choices = {"blue": replace(choice("b"), components=(part,))}
    changed_ = changed(ModelTraffic(), order, choices, rollout_id=FIRST, halted=())
    assert changed_.variants["blue"].entry.components == (part,)


def composed(traffic: ModelTraffic) -> DesiredBody:
    return compose(apply({}, [intent(CAM)]), traffic={DIGITS: traffic})


def test_body_without_traffic_has_the_digest_that_agents_without_variants_compute() -> None:
    body = composed(ModelTraffic())
    assert msgspec.json.decode(msgspec.json.encode(body)).keys() == {"models", "blacklist_overrides"}
    assert body_digest(body) == body_digest(compose(apply({}, [intent(CAM)])))


@given(st.permutations(["amber", "blue", "zinc"]))
def test_equal_traffic_has_equal_digests_in_whatever_order_it_came(names: list[str]) -> None:
    one = composed(after(ModelTraffic(), bring(*names)))
    assert [entry.variant for entry in one.models] == ["amber", "blue", msgspec.UNSET, "zinc"]
    assert body_digest(one) == body_digest(composed(after(ModelTraffic(), bring("amber", "blue", "zinc"))))


def test_override_of_a_variant_is_told_like_one_of_a_rollout() -> None:
    order = TrafficOrder(model=DIGITS, variants={"blue": replace(BLUE, override_blacklist=True)})
    assert composed(after(ModelTraffic(), order)).blacklist_overrides == ("b" * 64,)
