"""The endpoints on a model's traffic: how it is divided, how its releases compare, and what answers were worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from agent.serving.protocols.api import json_answer, read_body
from agent.serving.protocols.traffic_messages import (
    ArmState,
    Comparison,
    Comparisons,
    FeedbackAnswer,
    FeedbackBody,
    Histogram,
    PosteriorState,
    TrafficState,
)
from agent.serving.traffic.bandit import Bandit
from agent.serving.traffic.comparison import DISTANCES, RATIOS, judged
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.ids import ModelName
from shared.traffic import StickyBy, split_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.serving.engine import Engine
    from agent.serving.exchange import LiveLine, LiveRoute
    from agent.serving.recording.recorder import Recorder


def routes(engine: Engine) -> list[web.RouteDef]:
    """Return the endpoints over `engine`."""

    async def traffic(request: web.Request) -> web.Response:
        return json_answer(traffic_of(engine.route(ModelName(request.match_info["model"])), engine.recorder))

    async def comparison(request: web.Request) -> web.Response:
        route = engine.route(ModelName(request.match_info["model"]))
        found = tuple(_comparisons(route.model, engine.recorder))
        return json_answer(Comparisons(model=route.model, comparisons=found))

    async def feedback(request: web.Request) -> web.Response:
        try:
            body = msgspec.json.decode(await read_body(request), type=FeedbackBody)
        except MALFORMED as exc:
            remedy = 'send {"reply_id": "…", "reward": 0..1}'
            raise InvalidInputError(field="body", problem=str(exc), remedy=remedy) from exc
        return json_answer(FeedbackAnswer(counted=engine.rewards.reward(body.reply_id, body.reward)))

    return [
        web.get("/v2/models/{model}/traffic", traffic),
        web.get("/v2/models/{model}/comparison", comparison),
        web.post("/v2/feedback", feedback),
    ]


def traffic_of(route: LiveRoute, recorder: Recorder) -> TrafficState:
    """Return how the requests for a model are divided."""
    rule = route.rule
    named = [arm.variant for arm in rule.arms] if rule is not None else []
    shares = route.chooser.shares if route.chooser is not None else {route.default.variant: 1.0}
    return TrafficState(
        model=route.model,
        mode=rule.mode if rule is not None else None,
        sticky_by=rule.sticky_by if rule is not None else StickyBy.NOTHING,
        header=rule.header if rule is not None else "",
        pins=len(rule.pins) if rule is not None else 0,
        shadow=rule.shadow if rule is not None else "",
        arms=tuple(
            _arm(name, route, recorder, share=shares.get(name, 0.0))
            for name in dict.fromkeys((*named, *sorted(route.lines)))
        ),
    )


def _arm(name: str, route: LiveRoute, recorder: Recorder, *, share: float) -> ArmState:
    line, rule, chooser = route.lines.get(name), route.rule, route.chooser
    who = line.primary if line is not None else None
    weights = {arm.variant: arm.weight for arm in rule.arms} if rule is not None else {}
    known = chooser.posteriors.get(name) if isinstance(chooser, Bandit) else None
    return ArmState(
        variant=name,
        weight=weights.get(name),
        share=share if who is not None else 0.0,
        release_id=who.slot.release_id if who is not None else None,
        version=str(who.slot.version_number) if who is not None else None,
        requests=_requests(line, recorder),
        unavailable_reason=_why_not(line),
        posterior=None if known is None else PosteriorState(alpha=known.alpha, beta=known.beta, mean=known.mean),
    )


def _why_not(line: LiveLine | None) -> str:
    if line is None:
        return "not_on_device: no release of this variant is here"
    return line.primary.problem if line.primary is not None else line.reason


def _requests(line: LiveLine | None, recorder: Recorder) -> int:
    if line is None or line.primary is None:
        return 0
    return recorder.series(line.line, line.primary.slot.release_id).counts["requests"]


def _comparisons(model: ModelName, recorder: Recorder) -> Iterator[Comparison]:
    for by_rule, pairs in ((False, recorder.every_pair), (True, recorder.every_shadow)):
        for (line, candidate, stable), tally in pairs.items():
            name, variant = split_line(line)
            if name != model:
                continue
            flips, latency = judged(tally)
            yield Comparison(
                variant=variant,
                by_rule=by_rule,
                candidate=candidate,
                stable=stable,
                pairs=tally.pairs,
                flips=tally.flips,
                slower=tally.slower,
                candidate_errors=tally.candidate_errors,
                distances=Histogram(upper=DISTANCES, counts=tuple(tally.distances)),
                latency_ratios=Histogram(upper=RATIOS, counts=tuple(tally.ratios)),
                flips_verdict=flips,
                latency_verdict=latency,
            )
