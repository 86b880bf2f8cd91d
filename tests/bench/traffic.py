"""What choosing a variant costs a request: `python -m tests.bench.traffic`. Not run by the tests; takes half a minute.

Everything that is compared runs in turns, in CPU time of this thread, and the least of all turns counts: on a shared
machine what is beyond it is somebody else's.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from agent.core.plan import Plan, Route
from agent.serving.engine import Engine
from agent.serving.exchange import Ask, Caller, CallProtocol
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.requests import InferRequest, NamedTensor
from agent.serving.traffic.learning import Learning
from agent.serving.traffic.rewards import RewardLedger
from shared.ids import BootId, ReleaseId
from shared.traffic import MAIN, Arm, StickyBy, TrafficMode, TrafficRule, line_of
from tests.support import models
from tests.support.serving import MODEL, make_slot, one_hot

if TYPE_CHECKING:
    from agent.core.plan import SlotSpec

_TURNS = 15
_REQUESTS = 2000

CALLER = Caller(protocol=CallProtocol.OIP, key="user-17", application="kiosk", headers={"x-room": "attic"})
EVEN = TrafficRule(model=MODEL, arms=(Arm(variant=MAIN, weight=1), Arm(variant="blue", weight=1)))
RULES: dict[str, TrafficRule | None] = {
    "no rule": None,
    "weights": EVEN,
    "weights, sticky by key": replace(EVEN, sticky_by=StickyBy.KEY),
    "weights, sticky by application": replace(EVEN, sticky_by=StickyBy.APPLICATION),
    "weights, sticky by header": replace(EVEN, sticky_by=StickyBy.HEADER, header="x-room"),
    "weights, pinned": replace(EVEN, sticky_by=StickyBy.KEY, pins={"user-17": "blue"}),
    "bandit, with reply ids": replace(EVEN, mode=TrafficMode.BANDIT),
}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> None:
    slots = (_slot(folder, 1, MAIN), _slot(folder, 2, "blue"))
    engines = {name: await _engine(_plan(slots, rule)) for name, rule in RULES.items()}
    canary = Route(
        model=MODEL, primary=ReleaseId("r2"), shadow=ReleaseId("r1"), candidate=ReleaseId("r2"), canary_share=0.1
    )
    both = (slots[0], replace(slots[1], model=MODEL))
    engines["canary share, by key"] = await _engine(Plan(serial=1, slots=both, routes=(canary,)))
    choosing, answering = dict.fromkeys(engines, 1e9), dict.fromkeys(engines, 1e9)
    for _ in range(_TURNS):
        for name, engine in engines.items():
            choosing[name] = min(choosing[name], _choose_us(engine))
            answering[name] = min(answering[name], await _answer_us(engine))
    say("| rule | choosing µs | more than none | a whole answer of the engine µs | more than none |")
    say("|---|---|---|---|---|")
    for name in engines:
        more = (choosing[name] - choosing["no rule"], answering[name] - answering["no rule"])
        say(f"| {name} | {choosing[name]:.2f} | {more[0]:+.2f} | {answering[name]:.1f} | {more[1]:+.1f} |")
    for engine in engines.values():
        await engine.close()


def _choose_us(engine: Engine) -> float:
    route, draw = engine.route(MODEL), random.Random(3).random
    began = time.thread_time()
    for _ in range(_REQUESTS):
        route.choose(None, CALLER, draw)
    return (time.thread_time() - began) / _REQUESTS * 1e6


async def _answer_us(engine: Engine) -> float:
    request = InferRequest(inputs=(NamedTensor(name="input", array=np.array([one_hot(0)], np.float32)),))
    ask = Ask(model=MODEL, version=None, request=request, received_s=time.monotonic(), caller=CALLER)
    began = time.thread_time()
    for _ in range(_REQUESTS):
        await engine.answer(ask)
    return (time.thread_time() - began) / _REQUESTS * 1e6


async def _engine(plan: Plan) -> Engine:
    learning = Learning(rng=random.Random(5), ledger=RewardLedger(None, now_s=time.monotonic))
    load = partial(load_slot, cores=1, open_interpreter=open_litert)
    engine = Engine(boot_id=BootId("bench"), load=load, learning=learning)
    await engine.apply(plan)
    return engine


def _plan(slots: tuple[SlotSpec, ...], rule: TrafficRule | None) -> Plan:
    routes = tuple(Route(model=slot.model, primary=slot.release_id) for slot in slots)
    return Plan(serial=1, slots=slots, routes=routes, traffic=(rule,) if rule else ())


def _slot(folder: Path, version: int, variant: str) -> SlotSpec:
    model = models.one_hot_classifier(shift=version)
    made = make_slot(folder, model, release=ReleaseId(f"r{version}"), version=version)
    return replace(made, model=line_of(MODEL, variant))


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
