"""The live routes that follow from a plan and from what could be loaded of it: models, their lines, their traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.serving.exchange import LiveLine, LiveRoute
from agent.serving.traffic import routing
from agent.serving.traffic.variants import Division, answering_arms
from shared.traffic import MAIN, TrafficMode, split_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from agent.core.plan import Plan, Route
    from agent.serving.exchange import Chooser
    from agent.serving.models.holdings import Prepared
    from shared.ids import ModelName, ReleaseId
    from shared.traffic import TrafficRule

    Learn = Callable[[TrafficRule, Mapping[str, ReleaseId], Collection[str]], Chooser]
    """Makes what learns from rewards, of a rule, the release that answers for each of its arms, and all variants that
    can answer."""

NO_MAIN = "no_release: the model has variants only, and no traffic rule names one that can answer"


def live_routes(plan: Plan, prepared: Prepared, *, learn: Learn) -> dict[ModelName, LiveRoute]:
    """Return every model of the plan."""
    lines: dict[ModelName, dict[str, LiveLine]] = {}
    for route in plan.routes:
        model, variant = split_line(route.model)
        lines.setdefault(model, {})[variant] = _line(route, variant, prepared)
    rules = {rule.model: rule for rule in plan.traffic}
    return {model: _route(model, found, rules.get(model), learn) for model, found in lines.items()}


def _line(route: Route, variant: str, prepared: Prepared) -> LiveLine:
    fitted, by_release = routing.resolve(route, prepared.errors), prepared.by_release
    return LiveLine(
        line=route.model,
        variant=variant,
        primary=by_release[fitted.primary] if fitted.primary else None,
        shadow=by_release[fitted.shadow] if fitted.shadow else None,
        candidate=by_release[fitted.candidate] if fitted.candidate else None,
        max_latency_ratio=fitted.max_latency_ratio,
        reason=fitted.reason,
        canary_share=fitted.canary_share,
    )


def _route(model: ModelName, found: dict[str, LiveLine], rule: TrafficRule | None, learn: Learn) -> LiveRoute:
    alive = {name: line.primary.slot.release_id for name, line in found.items() if line.primary is not None}
    arms = answering_arms(rule, alive) if rule is not None else ()
    chooser = _chooser(rule, {name: alive[name] for name in arms}, alive, learn) if rule is not None and arms else None
    default = _default(chooser, found)
    lines = {default: found.get(default) or _empty(model), **found}
    shares = chooser.shares if chooser is not None else {default: 1.0}
    return LiveRoute(
        model=model,
        lines=lines,
        rule=rule,
        chooser=chooser,
        followers=tuple(line for line in found.values() if _follows(line, rule, answers=line.variant in shares)),
    )


def _chooser(rule: TrafficRule, arms: Mapping[str, ReleaseId], alive: Mapping[str, ReleaseId], learn: Learn) -> Chooser:
    # With one arm there is nothing to learn; its answers can be rewarded all the same once there are two.
    if rule.mode is TrafficMode.BANDIT and len(arms) > 1:
        return learn(rule, arms, alive)
    return Division(rule, alive=alive)


def _default(chooser: Chooser | None, found: Mapping[str, LiveLine]) -> str:
    """Return the variant that speaks for the model: what describes it, and answers where nothing is divided."""
    if chooser is None:
        return MAIN
    shares = chooser.shares
    return max(shares, key=lambda name: shares[name]) if MAIN not in shares or not found[MAIN].primary else MAIN


def _follows(line: LiveLine, rule: TrafficRule | None, *, answers: bool) -> bool:
    """Tell whether a line runs on copies: the rule's shadow, and a candidate whose line answers nobody.

    Without requests of its own such a candidate would never be compared, and so never be committed.
    """
    if line.primary is None or answers:
        return False
    return line.candidate is not None or (rule is not None and line.variant == rule.shadow)


def _empty(model: ModelName) -> LiveLine:
    return LiveLine(
        line=model, variant=MAIN, primary=None, shadow=None, candidate=None, max_latency_ratio=1.0, reason=NO_MAIN
    )
