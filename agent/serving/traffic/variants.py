"""Which variant answers a request: by weight, kept to a caller by a hash, or pinned. Pure, and about a microsecond.

The unit interval is cut into one part for each arm, in the rule's order. A request is a point in it: drawn at random,
or the hash of what the rule says is to be sticky. So when weights move from 95 and 5 to 90 and 10, only the callers
between 0.90 and 0.95 change their variant. What belonged to an arm that cannot answer is drawn again, among the
others: nobody else moves for it.
"""

from __future__ import annotations

from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from shared.traffic import MAIN, StickyBy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from agent.serving.exchange import Caller
    from shared.traffic import TrafficRule

    Draw = Callable[[], float]
    """A random number of [0, 1)."""

_HASH_BYTES: Final = 8
_FLOAT_BITS: Final = 53
"""Of 64 bits of hash: with more, the largest would round to 1, which is in no part of the interval."""


def salt_of(*names: str) -> bytes:
    """Return what keeps the callers of one rule from being cut along the same lines as those of another."""
    return "\0".join((*names, "")).encode()


def position(salt: bytes, value: str) -> float:
    """Return the point of [0, 1) that a value has, on every device and in every process the same."""
    # A header may hold any bytes, which arrive as lone surrogates.
    data = salt + value.encode("utf-8", "surrogateescape")
    return (int.from_bytes(blake2b(data, digest_size=_HASH_BYTES).digest(), "big") >> 11) * 2.0**-_FLOAT_BITS


def sticky_value(rule: TrafficRule | None, caller: Caller) -> str:
    """Return what keeps a caller with its variant; empty where nothing does, and each request is drawn anew."""
    if rule is None:
        return caller.key
    match rule.sticky_by:
        case StickyBy.NOTHING:
            return ""
        case StickyBy.KEY:
            return caller.key
        case StickyBy.APPLICATION:
            return caller.application
        case StickyBy.HEADER:
            return caller.headers.get(rule.header, "")


def bounds_of(shares: Sequence[float]) -> tuple[float, ...]:
    """Return the upper ends of the parts of [0, 1), for shares of which one at least is more than 0."""
    whole = sum(shares)
    # The sum of floats may fall short of 1, and some point would lie in no part.
    return (*(end / whole for end in accumulate(shares[:-1])), 1.0)


def answering_arms(rule: TrafficRule, alive: Collection[str]) -> tuple[str, ...]:
    """Return the variants that share the requests: those with weight that can answer.

    Where none of them can, the model's main line, and then any arm that can, whatever the weights say: an answer from
    any variant is better than none. Empty where no variant can answer.
    """
    weighted = tuple(arm.variant for arm in rule.arms if arm.weight and arm.variant in alive)
    if weighted:
        return weighted
    return next(((name,) for name in (MAIN, *(arm.variant for arm in rule.arms)) if name in alive), ())


class Division:
    """One model's requests, divided by the weights of its rule. Never changed: a new plan makes a new one."""

    __slots__ = ("_alive", "_bounds", "_names", "_others", "_pins", "_salt")

    def __init__(self, rule: TrafficRule, *, alive: Collection[str]) -> None:
        """Cut the interval; `alive` are the variants that can answer, and one of them at least must be."""
        others = answering_arms(rule, alive)
        self._alive = frozenset(others)
        weights = {arm.variant: arm.weight for arm in rule.arms if arm.weight}
        self._names, self._bounds = tuple(weights), bounds_of(tuple(weights.values()))
        self._salt = salt_of(rule.model)
        # Pins hold whatever the weights say, but not for one that cannot answer.
        self._pins: Mapping[str, str] = {value: name for value, name in rule.pins.items() if name in alive}
        again = bounds_of([float(weights.get(name, 1)) for name in others])
        self._others = (others, again, salt_of(rule.model, "again"))

    @property
    def shares(self) -> dict[str, float]:
        """How much of the requests each variant gets that gets any."""
        names, bounds, _ = self._others
        return {name: end - start for name, end, start in zip(names, bounds, (0.0, *bounds), strict=False)}

    def choose(self, value: str, draw: Draw) -> str:
        """Return the variant that answers; `value` is what is sticky, empty for nothing."""
        if value:
            pinned = self._pins.get(value)
            if pinned is not None:
                return pinned
            point = position(self._salt, value)
        else:
            point = draw()
        name = self._names[bisect_right(self._bounds, point)]
        if name in self._alive:
            return name
        names, bounds, salt = self._others
        return names[bisect_right(bounds, position(salt, value) if value else draw())]
