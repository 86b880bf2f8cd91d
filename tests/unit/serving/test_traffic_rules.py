"""Rules in force on a real engine: who answers, who runs on copies, and what is compared with what."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec.structs import replace

from agent.core.plan import Plan, Route
from agent.serving.engine import Engine
from agent.serving.errors import ModelUnavailableError
from agent.serving.exchange import Ask, Caller, CallProtocol
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.models.residency import NO_LIMITS, Limits
from agent.serving.protocols.traffic_api import traffic_of
from agent.serving.requests import InferRequest, NamedTensor
from agent.serving.traffic.bandit import Bandit
from agent.serving.traffic.learning import Learning
from agent.serving.traffic.rewards import RewardLedger
from shared.errors import NotFoundError
from shared.ids import BootId, ReleaseId
from shared.traffic import MAIN, Arm, StickyBy, TrafficMode, TrafficRule, line_of
from tests.support import models
from tests.support.serving import MODEL, make_slot, one_hot
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.core.plan import PairStats, SlotSpec
    from agent.serving.exchange import Reply

BLUE, GREEN = line_of(MODEL, "blue"), line_of(MODEL, "green")


class Bench:
    """An engine with releases whose answers tell which of them gave it: version N adds N to the position."""

    def __init__(self, releases: Path, limits: Limits = NO_LIMITS) -> None:
        self._releases = releases
        self.rng = random.Random(11)
        learning = Learning(rng=self.rng, ledger=RewardLedger(None, now_s=time.monotonic))
        load = partial(load_slot, cores=1, open_interpreter=open_litert)
        self.engine = Engine(boot_id=BootId("boot"), load=load, learning=learning, limits=limits)
        self.serial = 0

    def slot(self, line: str, version: int) -> SlotSpec:
        """A release on a line; `line` is its name."""
        model = models.one_hot_classifier(shift=version)
        made = make_slot(self._releases, model, release=ReleaseId(f"r{version}"), version=version)
        return replace(made, model=line)

    async def apply(self, *slots: SlotSpec, rule: TrafficRule | None = None, routes: tuple[Route, ...] = ()) -> None:
        """Have these answer, each on its line, unless `routes` say more."""
        self.serial += 1
        told = routes or tuple(Route(model=slot.model, primary=slot.release_id) for slot in slots)
        plan = Plan(serial=self.serial, slots=slots, routes=told, traffic=(rule,) if rule else ())
        await self.engine.apply(plan)

    async def ask(self, *, key: str = "", version: str | None = None, **headers: str) -> Reply:
        """Ask once, and finish as a protocol does."""
        request = InferRequest(inputs=(NamedTensor(name="input", array=np.array([one_hot(0)], np.float32)),))
        caller = Caller(
            protocol=CallProtocol.OIP,
            key=key,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        ask = Ask(model=MODEL, version=version, request=request, received_s=time.monotonic(), caller=caller)
        reply = await self.engine.answer(ask)
        self.engine.finish(reply, ready_s=time.monotonic())
        return reply

    async def versions(self, count: int) -> list[int]:
        """Ask so often, and return which version answered each time."""
        return [int((await self.ask()).outcome.top) for _ in range(count)]

    async def pairs(self, count: int, *, by_rule: bool = False) -> PairStats:
        """Wait until so many pairs were counted."""

        def found() -> list[PairStats]:
            return [each for each in self.engine.stats().pairs if each.by_rule is by_rule]

        await wait_until_async(lambda: sum(each.counts.pairs for each in found()) >= count)
        return found()[0]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.engine.close()


def rule(weights: dict[str, int], **fields: str) -> TrafficRule:
    arms = tuple(Arm(variant=name, weight=weight) for name, weight in weights.items())
    return replace(TrafficRule(model=MODEL, arms=arms), **fields)


async def test_without_a_rule_the_main_variant_answers_everything_and_says_nothing_of_it(bench: Bench) -> None:
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2))
    reply = await bench.ask()
    assert (set(await bench.versions(20)), reply.variant, reply.reply_id) == ({1}, "", "")


async def test_weights_divide_the_requests_and_each_reply_says_who_answered(bench: Bench) -> None:
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2), rule=rule({MAIN: 3, "blue": 1}))
    replies = [await bench.ask() for _ in range(400)]
    assert all(reply.variant == {"1": MAIN, "2": "blue"}[reply.outcome.top] for reply in replies)
    assert abs(sum(reply.variant == "blue" for reply in replies) / 400 - 0.25) < 0.11
    assert {reply.reply_id for reply in replies} == {""}


async def test_key_of_a_request_keeps_its_variant(bench: Bench) -> None:
    sticky = rule({MAIN: 1, "blue": 1}, sticky_by=StickyBy.KEY)
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2), rule=sticky)
    for number in range(10):
        assert len({(await bench.ask(key=f"user-{number}")).variant for _ in range(5)}) == 1
    assert {(await bench.ask(key=f"user-{number}")).variant for number in range(40)} == {MAIN, "blue"}


async def test_header_that_a_rule_names_chooses_the_variant(bench: Bench) -> None:
    sticky = replace(rule({MAIN: 1, "blue": 0}), sticky_by=StickyBy.HEADER, header="x-tester", pins={"yes": "blue"})
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2), rule=sticky)
    assert [(await bench.ask(x_tester=said)).variant for said in ("yes", "no", "")] == ["blue", MAIN, MAIN]


async def test_switch_from_blue_to_green_and_back_loads_nothing(bench: Bench) -> None:
    blue, green = bench.slot(BLUE, 1), bench.slot(GREEN, 2)
    await bench.apply(blue, green, rule=rule({"blue": 1, "green": 0}))
    first = bench.engine.routes[MODEL].answering()
    assert set(await bench.versions(10)) == {1}
    began_s = time.monotonic()
    await bench.apply(blue, green, rule=rule({"blue": 0, "green": 1}))
    took_s = time.monotonic() - began_s
    assert set(await bench.versions(10)) == {2}
    await bench.apply(blue, green, rule=rule({"blue": 1, "green": 0}))
    assert set(await bench.versions(10)) == {1}
    assert set(bench.engine.routes[MODEL].answering()) == set(first)
    assert took_s < 0.05


async def test_arm_that_cannot_be_loaded_costs_nobody_an_answer(bench: Bench) -> None:
    gone = replace(bench.slot(BLUE, 2), folder="/nowhere")
    await bench.apply(bench.slot(MODEL, 1), gone, rule=rule({MAIN: 1, "blue": 99}))
    assert set(await bench.versions(50)) == {1}


async def test_arm_that_cannot_be_loaded_again_costs_nobody_an_answer_and_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Limits(idle_unload_s=0.05))
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2), rule=rule({MAIN: 1, "blue": 99}))
    blue = bench.engine.routes[MODEL].lines["blue"].primary
    assert blue is not None
    async with asyncio.TaskGroup() as group:
        resting = group.create_task(bench.engine.unload_idle())
        await wait_until_async(lambda: blue.instance is None, what="the idle arm is unloaded")
        resting.cancel()
    away = tmp_path / "r2"
    away.rename(tmp_path / "away")
    with contextlib.suppress(ModelUnavailableError):
        await bench.versions(20)  # who comes first hears of it
    await wait_until_async(lambda: bool(blue.problem))
    assert set(await bench.versions(50)) == {1}
    state = traffic_of(bench.engine.routes[MODEL], bench.engine.recorder)
    assert "cannot be read" in state.arms[1].unavailable_reason
    (tmp_path / "away").rename(away)
    blue.forgive()
    blue.problem = "a moment ago"
    await bench.versions(50)
    await wait_until_async(lambda: blue.instance is not None)
    assert 2 in await bench.versions(50)
    await bench.engine.close()


async def test_rule_of_variants_that_are_not_here_leaves_the_requests_to_the_main_one(bench: Bench) -> None:
    await bench.apply(bench.slot(MODEL, 1), rule=rule({"blue": 1, "green": 1}))
    assert set(await bench.versions(10)) == {1}


async def test_model_that_has_variants_only_answers_by_its_rule_and_says_why_without_one(bench: Bench) -> None:
    await bench.apply(bench.slot(BLUE, 1))
    with pytest.raises(ModelUnavailableError, match="no traffic rule"):
        await bench.ask()
    await bench.apply(bench.slot(BLUE, 1), rule=rule({"blue": 1}))
    assert set(await bench.versions(5)) == {1}
    assert list(bench.engine.routes) == [MODEL]


async def test_callers_name_models_and_never_lines(bench: Bench) -> None:
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2))
    with pytest.raises(NotFoundError):
        bench.engine.route(BLUE)


async def test_version_addresses_the_release_of_any_arm_but_of_the_shadow(bench: Bench) -> None:
    slots = (bench.slot(MODEL, 1), bench.slot(BLUE, 2), bench.slot(GREEN, 3))
    await bench.apply(*slots, rule=rule({MAIN: 1, "blue": 0}, shadow="green"))
    assert (await bench.ask(version="2")).outcome.top == "2"
    with pytest.raises(NotFoundError):
        await bench.ask(version="3")
    assert bench.engine.routes[MODEL].labelled("blue").slot.version_number == 2
    assert bench.engine.routes[MODEL].labelled("stable").slot.version_number == 1
    for label in ("green", "canary", "no"):
        with pytest.raises(NotFoundError):
            bench.engine.routes[MODEL].labelled(label)


# --- canary share ---


async def test_candidate_answers_its_share_and_both_ways_are_compared(bench: Bench) -> None:
    trying = Route(
        model=MODEL, primary=ReleaseId("r2"), shadow=ReleaseId("r1"), candidate=ReleaseId("r2"), canary_share=0.25
    )
    await bench.apply(bench.slot(MODEL, 2), bench.slot(MODEL, 1), routes=(trying,))
    answered = []
    for done in range(0, 200, 8):
        answered += await bench.versions(8)
        await bench.pairs(done + 8)
    assert abs(answered.count(2) / 200 - 0.25) < 0.15
    pair = await bench.pairs(200)
    assert (pair.candidate, pair.stable, pair.counts.pairs, pair.counts.flips) == ("r2", "r1", 200, 200)
    assert sum(pair.distances) == sum(pair.ratios) == 200


async def test_callers_with_a_key_stay_with_candidate_or_stable(bench: Bench) -> None:
    trying = Route(
        model=MODEL, primary=ReleaseId("r2"), shadow=ReleaseId("r1"), candidate=ReleaseId("r2"), canary_share=0.5
    )
    await bench.apply(bench.slot(MODEL, 2), bench.slot(MODEL, 1), routes=(trying,))
    for number in range(8):
        assert len({(await bench.ask(key=f"user-{number}")).outcome.top for _ in range(4)}) == 1
    assert len({(await bench.ask(key=f"user-{number}")).outcome.top for number in range(30)}) == 2


# --- shadows ---


async def test_shadow_of_a_rule_is_compared_with_whoever_answered_and_answers_nobody(bench: Bench) -> None:
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2), rule=rule({MAIN: 1}, shadow="blue"))
    assert set(await bench.versions(8)) == {1}
    pair = await bench.pairs(8, by_rule=True)
    assert (pair.model, pair.candidate, pair.stable) == (BLUE, "r2", "r1")
    assert (pair.counts.pairs, pair.counts.flips, sum(pair.distances)) == (8, 8, 8)


async def test_shadow_that_is_not_here_shadows_nothing(bench: Bench) -> None:
    await bench.apply(bench.slot(MODEL, 1), rule=rule({MAIN: 1}, shadow="blue"))
    assert (set(await bench.versions(8)), bench.engine.stats().pairs) == ({1}, ())


async def test_candidate_of_a_variant_without_requests_is_compared_on_copies(bench: Bench) -> None:
    """A release that is brought to the resting side of a blue-green pair must come to its verdict there."""
    beside = Route(model=GREEN, primary=ReleaseId("r2"), shadow=ReleaseId("r3"), candidate=ReleaseId("r3"))
    main = Route(model=MODEL, primary=ReleaseId("r1"))
    slots = (bench.slot(MODEL, 1), bench.slot(GREEN, 2), bench.slot(GREEN, 3))
    await bench.apply(*slots, rule=rule({MAIN: 1, "green": 0}), routes=(main, beside))
    for _ in range(8):
        assert set(await bench.versions(1)) == {1}
    pair = await bench.pairs(4)
    assert (pair.model, pair.candidate, pair.stable, pair.by_rule) == (GREEN, "r3", "r2", False)
    assert pair.counts.flips == pair.counts.pairs


async def test_candidate_of_the_shadow_is_compared_with_the_shadow(bench: Bench) -> None:
    beside = Route(model=GREEN, primary=ReleaseId("r2"), shadow=ReleaseId("r3"), candidate=ReleaseId("r3"))
    main = Route(model=MODEL, primary=ReleaseId("r1"))
    slots = (bench.slot(MODEL, 1), bench.slot(GREEN, 2), bench.slot(GREEN, 3))
    await bench.apply(*slots, rule=rule({MAIN: 1}, shadow="green"), routes=(main, beside))
    await bench.versions(4)
    own, ruled = await bench.pairs(4), await bench.pairs(4, by_rule=True)
    assert ((own.candidate, own.stable), (ruled.candidate, ruled.stable)) == (("r3", "r2"), ("r2", "r1"))


# --- bandit ---


async def test_bandit_gives_each_reply_an_id_and_learns_of_its_reward(bench: Bench) -> None:
    learned = replace(rule({"blue": 1, "green": 1}), mode=TrafficMode.BANDIT)
    await bench.apply(bench.slot(BLUE, 1), bench.slot(GREEN, 2), rule=learned)
    for _ in range(400):
        reply = await bench.ask()
        assert bench.engine.rewards.reward(reply.reply_id, float(reply.variant == "green"))
    chooser = bench.engine.routes[MODEL].chooser
    assert isinstance(chooser, Bandit)
    assert (chooser.posteriors["green"].mean > 0.9, chooser.posteriors["blue"].mean < 0.3) == (True, True)
    assert (await bench.versions(100)).count(2) > 80


async def test_what_a_bandit_learned_survives_plans_and_goes_with_the_release(bench: Bench) -> None:
    learned = replace(rule({"blue": 1, "green": 1}), mode=TrafficMode.BANDIT)
    await bench.apply(bench.slot(BLUE, 1), bench.slot(GREEN, 2), rule=learned)
    for _ in range(20):
        bench.engine.rewards.reward((await bench.ask()).reply_id, 1.0)
    known = _posteriors(bench)
    await bench.apply(bench.slot(BLUE, 1), bench.slot(GREEN, 2), rule=replace(learned, mode=TrafficMode.WEIGHTED))
    await bench.apply(bench.slot(BLUE, 1), bench.slot(GREEN, 2), rule=learned)
    assert _posteriors(bench) == known
    await bench.apply(bench.slot(BLUE, 1), bench.slot(GREEN, 3), rule=learned)
    assert _posteriors(bench) == {"blue": known["blue"], "green": (1.0, 1.0)}


def _posteriors(bench: Bench) -> dict[str, tuple[float, float]]:
    state = traffic_of(bench.engine.routes[MODEL], bench.engine.recorder)
    return {arm.variant: (arm.posterior.alpha, arm.posterior.beta) for arm in state.arms if arm.posterior}


async def test_arm_without_weight_gets_nothing_of_a_bandit(bench: Bench) -> None:
    learned = replace(rule({MAIN: 0, "blue": 1, "green": 1}), mode=TrafficMode.BANDIT)
    await bench.apply(bench.slot(MODEL, 3), bench.slot(BLUE, 1), bench.slot(GREEN, 2), rule=learned)
    assert set(await bench.versions(100)) == {1, 2}


async def test_answer_to_a_version_that_was_asked_for_is_not_to_be_rewarded(bench: Bench) -> None:
    learned = replace(rule({"blue": 1, "green": 1}), mode=TrafficMode.BANDIT)
    await bench.apply(bench.slot(BLUE, 1), bench.slot(GREEN, 2), rule=learned)
    assert (await bench.ask(version="2")).reply_id == ""


# --- what is told ---


async def test_state_of_traffic_names_arms_releases_shares_and_what_is_missing(bench: Bench) -> None:
    ruled = rule({MAIN: 3, "blue": 1, "green": 4}, shadow="red", sticky_by=StickyBy.KEY)
    await bench.apply(bench.slot(MODEL, 1), bench.slot(BLUE, 2), rule=replace(ruled, pins={"tester": "blue"}))
    await bench.versions(10)
    state = traffic_of(bench.engine.routes[MODEL], bench.engine.recorder)
    assert (state.mode, state.pins, state.shadow) == (TrafficMode.WEIGHTED, 1, "red")
    assert [(arm.variant, arm.weight, arm.version) for arm in state.arms] == [
        (MAIN, 3, "1"),
        ("blue", 1, "2"),
        ("green", 4, None),
    ]
    assert [arm.share for arm in state.arms] == pytest.approx([0.75, 0.25, 0.0])
    assert sum(arm.requests for arm in state.arms) == 10
    assert state.arms[2].unavailable_reason.startswith("not_on_device")
