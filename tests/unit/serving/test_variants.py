"""Who answers by a rule's weights: in the shares it says, the same caller always alike, and no more callers moved than
must be."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.serving.exchange import Caller, CallProtocol
from agent.serving.traffic.variants import Division, answering_arms, bounds_of, position, salt_of, sticky_value
from shared.ids import ModelName
from shared.traffic import Arm, StickyBy, TrafficRule

MODEL = ModelName("digits")
KEYS = [f"user-{number}" for number in range(4000)]


def rule(
    weights: dict[str, int],
    *,
    model: ModelName = MODEL,
    sticky_by: StickyBy = StickyBy.NOTHING,
    header: str = "",
    pins: dict[str, str] | None = None,
) -> TrafficRule:
    arms = tuple(Arm(variant=name, weight=weight) for name, weight in weights.items())
    return TrafficRule(model=model, arms=arms, sticky_by=sticky_by, header=header, pins=pins or {})


def division(
    weights: dict[str, int],
    *,
    dead: tuple[str, ...] = (),
    model: ModelName = MODEL,
    pins: dict[str, str] | None = None,
) -> Division:
    made = rule(weights, model=model, pins=pins, sticky_by=StickyBy.KEY)
    return Division(made, alive=set(weights) - set(dead))


def answers(divided: Division) -> dict[str, str]:
    return {key: divided.choose(key, no_draw) for key in KEYS}


def no_draw() -> float:
    raise AssertionError("a sticky request was left to chance")


def share(chosen: dict[str, str], name: str) -> float:
    return sum(each == name for each in chosen.values()) / len(chosen)


def test_sticky_callers_are_divided_by_the_weights() -> None:
    chosen = answers(division({"main": 90, "blue": 10}))
    # Five standard deviations of 4,000 draws.
    assert abs(share(chosen, "blue") - 0.10) < 0.024


def test_draws_are_divided_by_the_weights() -> None:
    divided, rng = division({"main": 3, "blue": 1}), random.Random(7)
    drawn = [divided.choose("", rng.random) for _ in range(4000)]
    assert abs(drawn.count("blue") / 4000 - 0.25) < 0.035


def test_same_caller_gets_the_same_variant_in_every_process() -> None:
    # Fixed for ever: a device that restarts, or another of the site, must not hand its callers around.
    assert position(salt_of("digits"), "user-1") == pytest.approx(0.75806006, abs=1e-8)
    assert answers(division({"main": 1, "blue": 1})) == answers(division({"main": 1, "blue": 1}))


def test_rules_of_two_models_do_not_cut_their_callers_alike() -> None:
    here = answers(division({"main": 1, "blue": 1}))
    there = answers(division({"main": 1, "blue": 1}, model=ModelName("doors")))
    both = sum(here[key] == there[key] for key in KEYS) / len(KEYS)
    assert abs(both - 0.5) < 0.04


def test_more_weight_moves_only_the_callers_whom_it_is_for() -> None:
    before, after = answers(division({"main": 95, "blue": 5})), answers(division({"main": 90, "blue": 10}))
    moved = {(before[key], after[key]) for key in KEYS if before[key] != after[key]}
    assert moved == {("main", "blue")}


def test_dead_arm_leaves_its_share_to_the_others_and_moves_nobody_else() -> None:
    weights = {"main": 2, "blue": 1, "green": 1}
    before, after = answers(division(weights)), answers(division(weights, dead=("green",)))
    assert all(after[key] == before[key] for key in KEYS if before[key] != "green")
    moved = {key: after[key] for key in KEYS if before[key] == "green"}
    assert abs(share(moved, "main") - 2 / 3) < 0.08
    assert division(weights, dead=("green",)).shares == pytest.approx({"main": 2 / 3, "blue": 1 / 3})


def test_arm_without_weight_gets_nothing() -> None:
    assert set(answers(division({"main": 1, "green": 0})).values()) == {"main"}


def test_pinned_value_is_answered_by_its_variant_whatever_the_weights_say() -> None:
    divided = division({"main": 1, "green": 0}, pins={"tester": "green"})
    assert (divided.choose("tester", no_draw), divided.choose("user-1", no_draw)) == ("green", "main")


def test_pin_on_a_variant_that_cannot_answer_holds_nobody() -> None:
    divided = division({"main": 1, "green": 0}, dead=("green",), pins={"tester": "green"})
    assert divided.choose("tester", no_draw) == "main"


@pytest.mark.parametrize(
    ("weights", "alive", "expected"),
    [
        ({"blue": 1, "green": 3}, {"blue", "green", "main"}, ("blue", "green")),
        ({"blue": 1, "green": 3}, {"blue"}, ("blue",)),
        ({"blue": 1, "green": 0}, {"green"}, ("green",)),
        ({"blue": 1, "green": 0}, {"green", "main"}, ("main",)),
        ({"blue": 1}, set(), ()),
    ],
)
def test_whoever_can_answer_answers_before_nobody_does(
    weights: dict[str, int], alive: set[str], expected: tuple[str, ...]
) -> None:
    assert answering_arms(rule(weights), alive) == expected


@given(
    st.lists(st.integers(min_value=1, max_value=10_000), min_size=1, max_size=8),
    st.floats(min_value=0, max_value=1, exclude_max=True),
)
def test_every_point_lies_in_the_part_of_some_arm(weights: list[int], point: float) -> None:
    divided = division({f"v{number}": weight for number, weight in enumerate(weights)})
    assert divided.choose("", lambda: point).startswith("v")
    assert bounds_of(weights)[-1] == 1.0


NAMES = ["main", "blue", "green", "red"]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(min_value=0, max_value=9), min_size=1),
    st.sets(st.sampled_from(NAMES), min_size=1),
    st.text(max_size=3),
    st.integers(),
)
def test_whoever_is_chosen_can_answer_and_has_weight_if_any_that_can_has(
    weights: dict[str, int], alive: set[str], value: str, seed: int
) -> None:
    assume(any(weights.values()) and alive & ({"main"} | set(weights)))
    chosen = Division(rule(weights), alive=alive).choose(value, random.Random(seed).random)
    assert chosen in alive
    assert weights.get(chosen, 0) > 0 or not any(weights.get(name, 0) for name in alive)


@given(st.text(max_size=40))
def test_attack_any_value_has_a_point(value: str) -> None:
    assert 0.0 <= position(salt_of("digits"), value) < 1.0


def test_attack_header_of_undecodable_bytes_has_a_point() -> None:
    assert 0.0 <= position(salt_of("digits"), b"\xff\xfe".decode("utf-8", "surrogateescape")) < 1.0


CALLER = Caller(protocol=CallProtocol.OIP, application="kiosk", key="user-1", headers={"x-room": "attic"})


@pytest.mark.parametrize(
    ("sticky_by", "header", "expected"),
    [
        (StickyBy.NOTHING, "", ""),
        (StickyBy.KEY, "", "user-1"),
        (StickyBy.APPLICATION, "", "kiosk"),
        (StickyBy.HEADER, "x-room", "attic"),
        (StickyBy.HEADER, "x-floor", ""),
    ],
)
def test_value_that_sticks_is_what_the_rule_names(sticky_by: StickyBy, header: str, expected: str) -> None:
    assert sticky_value(rule({"main": 1}, sticky_by=sticky_by, header=header), CALLER) == expected


def test_without_a_rule_a_canary_sticks_to_the_key() -> None:
    assert sticky_value(None, CALLER) == "user-1"
