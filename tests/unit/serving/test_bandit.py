"""Dividing requests by their rewards: the better arm gets them, equals starve nobody, and it costs less than chance."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from agent.serving.traffic.bandit import EXPLORED, LEARN_EVERY, Bandit
from agent.serving.traffic.rewards import RewardLedger, arm_key
from shared.ids import ModelName, ReleaseId
from shared.traffic import Arm, StickyBy, TrafficMode, TrafficRule, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = ModelName("digits")
RELEASES = {"blue": ReleaseId("r1"), "green": ReleaseId("r2")}
SEEDS = range(20)


class World:
    """Applications that like each arm's answers so often, and a bandit that does not know it."""

    def __init__(self, likes: Mapping[str, float], *, seed: int, rule: TrafficRule | None = None) -> None:
        self.likes, self.rng = likes, random.Random(seed)
        self.ledger = RewardLedger(None, now_s=lambda: 1000.0)
        self.ledger.keep([arm_key(line_of(MODEL, name), release) for name, release in RELEASES.items()])
        self.rule = rule or TrafficRule(
            model=MODEL, arms=tuple(Arm(variant=name, weight=1) for name in RELEASES), mode=TrafficMode.BANDIT
        )
        self.bandit = self.plan()

    def plan(self) -> Bandit:
        """Make what a new plan makes."""
        return Bandit(self.rule, RELEASES, alive=RELEASES, ledger=self.ledger, rng=self.rng)

    def requests(self, count: int) -> list[str]:
        """Ask so often, and say of each answer whether it was liked."""
        chosen = []
        for _ in range(count):
            name = self.bandit.choose("", self.rng.random)
            reply_id = self.ledger.issue(arm_key(line_of(MODEL, name), RELEASES[name]), self.rng.getrandbits(64))
            self.ledger.reward(reply_id, float(self.rng.random() < self.likes[name]))
            chosen.append(name)
        return chosen


@pytest.fixture(scope="module")
def planted() -> list[list[str]]:
    """Twenty worlds in which green is liked 0.6 of the time, and blue 0.5."""
    return [World({"blue": 0.5, "green": 0.6}, seed=seed).requests(3000) for seed in SEEDS]


def test_planted_better_arm_gets_most_of_the_requests(planted: list[list[str]]) -> None:
    late = [chosen[2000:].count("green") / 1000 for chosen in planted]
    # The most it can get is 97.5 %: the rest is explored.
    assert sum(share > 0.8 for share in late) >= 17
    assert sum(late) / len(late) > 0.85


def test_regret_is_far_below_that_of_an_even_split(planted: list[list[str]]) -> None:
    # Each request to the worse arm costs 0.1 of a reward; an even split pays half of that, always.
    regret = sum(chosen.count("blue") * 0.1 for chosen in planted) / len(planted)
    assert regret < 0.5 * (3000 * 0.5 * 0.1)


def test_equal_arms_starve_neither() -> None:
    # Each request goes to an arm with a chance of EXPLORED / 2 = 2.5 % at least, whatever was learned. So of 3,000 an
    # arm gets fewer than 40 with a chance of at most 3e-6 (binomial, exact).
    for seed in SEEDS:
        chosen = World({"blue": 0.5, "green": 0.5}, seed=seed).requests(3000)
        assert min(chosen.count("blue"), chosen.count("green")) >= 40


def test_arm_that_becomes_better_is_found_again() -> None:
    world = World({"blue": 0.9, "green": 0.1}, seed=3)
    world.requests(300)
    world.likes = {"blue": 0.1, "green": 0.9}
    world.requests(3000)
    assert world.requests(500).count("green") > 400


def test_what_was_learned_survives_a_new_plan() -> None:
    world = World({"blue": 0.1, "green": 0.9}, seed=4)
    world.requests(500)
    assert world.plan().shares["green"] > 0.9


def test_arms_of_which_nothing_is_known_share_evenly() -> None:
    assert World({}, seed=5).bandit.shares["green"] == pytest.approx(0.5, abs=0.2)


def test_share_of_an_arm_is_never_less_than_what_is_explored() -> None:
    world = World({"blue": 0.0, "green": 1.0}, seed=6)
    world.requests(2000)
    assert world.bandit.shares["blue"] == pytest.approx(EXPLORED / 2)
    assert sum(world.bandit.shares.values()) == pytest.approx(1.0)


def test_rewards_are_looked_at_again_after_so_many_requests() -> None:
    world = World({}, seed=7)
    arm = arm_key(line_of(MODEL, "green"), RELEASES["green"])
    for number in range(500):
        world.ledger.reward(world.ledger.issue(arm, number), 1.0)
    before = world.bandit.shares
    for _ in range(LEARN_EVERY):
        world.bandit.choose("", world.rng.random)
    assert world.bandit.shares == before
    world.bandit.choose("", world.rng.random)
    assert world.bandit.shares["green"] > 0.9


def test_sticky_caller_moves_only_as_far_as_the_shares_do() -> None:
    arms = tuple(Arm(variant=name, weight=1) for name in RELEASES)
    rule = TrafficRule(model=MODEL, arms=arms, mode=TrafficMode.BANDIT, sticky_by=StickyBy.KEY, pins={"tester": "blue"})
    world = World({"blue": 0.1, "green": 0.9}, seed=8, rule=rule)
    keys = [f"user-{number}" for number in range(500)]
    before = {key: world.bandit.choose(key, world.rng.random) for key in keys[:LEARN_EVERY]}
    world.requests(1000)
    after = [world.bandit.choose(key, world.rng.random) for key in keys]
    assert after.count("green") > 450
    # Those who had green already kept it: its part of the interval has only grown.
    assert all(after[place] == "green" for place, key in enumerate(keys) if before.get(key) == "green")
    assert world.bandit.choose("tester", world.rng.random) == "blue"
