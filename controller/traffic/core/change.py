"""What an order makes of what is set of one model on one device; the same order again changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from controller.facts import ModelTraffic, Variant
from shared import traffic
from shared.errors import InvalidInputError
from shared.ids import is_slug
from shared.traffic import MAIN, MAX_ARMS
from shared.wire import DesiredModel

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from controller.facts import ArtifactChoice
    from shared.ids import ModelName, ReleaseId, RolloutId
    from shared.request_log import LogWish
    from shared.traffic import TrafficRule
    from shared.wire import ProbationPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantOrder:
    """A variant to bring to devices, or to bring another release of."""

    release_id: ReleaseId
    policy: ProbationPolicy
    override_blacklist: bool = False
    """Have devices try again what they took back once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOrder:
    """What to change of one model; what is not named stays as it is."""

    model: ModelName
    variants: Mapping[str, VariantOrder] = field(default_factory=dict)
    remove: Collection[str] = ()
    """Variants to take away."""
    rule: TrafficRule | None = None
    clear: bool = False
    """Take all variants and the rule away: the main variant answers everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOrder:
    """What to write down of one model's requests; no wish: nothing."""

    model: ModelName
    wish: LogWish | None


def check(order: TrafficOrder) -> None:
    """Refuse an order that no device could carry out.

    Raises:
        InvalidInputError: names the field and the remedy.
    """
    named = [*order.variants, *order.remove]
    for name in named:
        if name == MAIN or not is_slug(name):
            why = "is moved by rollouts" if name == MAIN else "is no name of a variant: a-z, 0-9 and -"
            raise InvalidInputError(field=f"variants.{name}", problem=f"{name!r} {why}", remedy="name it otherwise")
    if both := sorted(set(order.variants) & set(order.remove)):
        raise InvalidInputError(field="remove", problem=f"{', '.join(both)} is to be brought as well")
    if order.clear and (named or order.rule is not None):
        raise InvalidInputError(field="clear", problem="takes everything away", remedy="name nothing else beside it")
    if not (order.clear or named or order.rule is not None):
        raise InvalidInputError(field="", problem="asks for nothing", remedy="name variants, a rule, remove or clear")
    if order.rule is not None:
        traffic.check(order.rule, field="rule")
        if order.rule.model != order.model:
            raise InvalidInputError(field="rule.model", problem=f"{order.rule.model} is not {order.model}")


def changed(
    before: ModelTraffic,
    order: TrafficOrder,
    choices: Mapping[str, ArtifactChoice],
    *,
    rollout_id: RolloutId,
    halted: Collection[RolloutId],
) -> ModelTraffic:
    """Return what is set after an order. `choices` has the artifact that this device gets of each variant.

    A variant that would be the same keeps the id of the change that brought it, unless that one was halted: a halt is
    final, and only a new id gets past it.

    Raises:
        InvalidInputError: a rule would name a variant that the device does not have.
    """
    if order.clear:
        return ModelTraffic(log=before.log)
    kept = {name: variant for name, variant in before.variants.items() if name not in order.remove}
    for name, asked in order.variants.items():
        fresh = _variant(name, asked, choices[name], order.model, rollout_id)
        known = kept.get(name)
        kept[name] = known if known is not None and _same(known, fresh, halted) else fresh
    after = replace(before, variants=kept, rule=order.rule or before.rule)
    _check_named(after)
    return after


def _check_named(after: ModelTraffic) -> None:
    if len(after.variants) > MAX_ARMS:
        problem = f"{len(after.variants)} of them, more than {MAX_ARMS}"
        raise InvalidInputError(field="variants", problem=problem, remedy="remove some")
    if after.rule is None:
        return
    named = {arm.variant for arm in after.rule.arms} | ({after.rule.shadow} if after.rule.shadow else set())
    if missing := sorted(named - {MAIN, *after.variants}):
        raise InvalidInputError(
            field="rule",
            problem=f"names {', '.join(missing)}, which the device does not have",
            remedy="bring the variant, or set a rule that does not name it",
        )


def _variant(
    name: str, asked: VariantOrder, choice: ArtifactChoice, model: ModelName, rollout_id: RolloutId
) -> Variant:
    entry = DesiredModel(
        model=model,
        release_id=asked.release_id,
        rollout_id=rollout_id,
        attempt=1,
        manifest=choice.manifest,
        artifact=choice.artifact,
        profile_id=choice.profile_id,
        release_counter=choice.release_counter,
        policy=asked.policy,
        variant=name,
        components=choice.components or msgspec.UNSET,
    )
    return Variant(entry=entry, override_blacklist=asked.override_blacklist)


def _same(known: Variant, fresh: Variant, halted: Collection[RolloutId]) -> bool:
    as_fresh = msgspec.structs.replace(known.entry, rollout_id=fresh.entry.rollout_id)
    return known.entry.rollout_id not in halted and replace(known, entry=as_fresh) == fresh
