"""How the requests for one model are divided among its variants on a device."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec

from shared.errors import InvalidInputError
from shared.ids import ModelName, is_slug

if TYPE_CHECKING:
    from collections.abc import Collection

MAIN = "main"
"""The variant that rollouts move: the model's own line of releases."""

MAX_ARMS = 8
_SEPARATOR = "@"
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Pins on these would carry keys in a rule that many can read."""

Weight = Annotated[int, msgspec.Meta(ge=0, le=10_000)]


class TrafficMode(StrEnum):
    """Who decides how much an arm gets."""

    WEIGHTED = "weighted"
    """The weights do."""
    BANDIT = "bandit"
    """Rewards that applications report do, by Thompson sampling; an arm of weight 0 gets nothing."""


class StickyBy(StrEnum):
    """What keeps a caller with the variant that it got first."""

    NOTHING = "nothing"
    KEY = "key"
    """The request's own key, whatever the application means by it: a user, a camera."""
    APPLICATION = "application"
    HEADER = "header"
    """The value of a header that the rule names."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One variant's share."""

    variant: str
    weight: Weight


class TrafficRule(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of a model's traffic; without a rule the main variant answers everything.

    Canary is weights such as 95 and 5; A/B is even weights and `sticky_by`; blue-green is all the weight on one of two.
    """

    model: ModelName
    arms: tuple[Arm, ...]
    mode: TrafficMode = TrafficMode.WEIGHTED
    sticky_by: StickyBy = StickyBy.NOTHING
    header: str = ""
    """Lower-case name of the header that `sticky_by` and `pins` read; none where they read the application or key."""
    pins: dict[str, str] = {}
    """Value of what `sticky_by` reads → the variant that answers it, whatever the weights say."""
    shadow: str = ""
    """Variant that runs on copies of the requests that others answered, and answers nobody."""


def line_of(model: ModelName, variant: str) -> ModelName:
    """Return the name of a variant's own line of releases on a device: `digits`, `digits@blue`."""
    return model if variant == MAIN else ModelName(f"{model}{_SEPARATOR}{variant}")


def variant_of(given: str | msgspec.UnsetType) -> str:
    """Return the variant that a message means, whose senders may not know of variants."""
    return MAIN if given is msgspec.UNSET else given


def split_line(line: ModelName) -> tuple[ModelName, str]:
    """Return model and variant of a line."""
    model, _, variant = line.partition(_SEPARATOR)
    return ModelName(model), variant or MAIN


def check(rule: TrafficRule, *, field: str = "traffic") -> None:
    """Refuse a rule by which some request would find no variant, or none could be told apart.

    Raises:
        InvalidInputError: names the field and the remedy.
    """
    names = [arm.variant for arm in rule.arms]
    if not 1 <= len(names) <= MAX_ARMS or len(set(names)) != len(names):
        raise InvalidInputError(field=f"{field}.arms", problem=f"1 to {MAX_ARMS} different variants are needed")
    for name in (*names, *([rule.shadow] if rule.shadow else [])):
        if not is_slug(name):
            raise InvalidInputError(field=f"{field}.arms", problem=f"{name!r} is no name of a variant: a-z, 0-9 and -")
    if sum(arm.weight for arm in rule.arms) == 0:
        raise InvalidInputError(field=f"{field}.arms", problem="all weights are 0", remedy="give one arm some weight")
    if rule.shadow in names:
        problem = f"{rule.shadow!r} answers already, and cannot be its own shadow"
        raise InvalidInputError(field=f"{field}.shadow", problem=problem, remedy="name a variant that is no arm")
    _check_sticky(rule, names, field)


def _check_sticky(rule: TrafficRule, names: Collection[str], field: str) -> None:
    by_header = rule.sticky_by is StickyBy.HEADER
    if by_header != bool(rule.header) or rule.header != rule.header.lower():
        problem = "a header is named, in lower case, exactly when sticky_by is header"
        raise InvalidInputError(field=f"{field}.header", problem=problem)
    if rule.header in _SECRET_HEADERS:
        remedy = "sticky_by application tells callers apart by their keys"
        raise InvalidInputError(field=f"{field}.header", problem=f"{rule.header} holds secrets", remedy=remedy)
    if rule.pins and rule.sticky_by is StickyBy.NOTHING:
        raise InvalidInputError(field=f"{field}.pins", problem="need sticky_by: key, application or header")
    if unknown := sorted(set(rule.pins.values()) - set(names)):
        raise InvalidInputError(field=f"{field}.pins", problem=f"{', '.join(unknown)} is no arm of this rule")
