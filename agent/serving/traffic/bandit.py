"""Dividing a model's requests by what applications say its answers were worth: Thompson sampling.

Each arm has a Beta distribution of its mean reward. Where every request would draw from each of them and go to the
largest, here 128 draws at once say how often each arm is the largest, and the next 64 requests are divided by that:
the same shares, for a fraction of a microsecond a request, and a sticky caller moves only as far as the shares do.
Source: Thompson 1933; Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", 2011.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.serving.traffic.rewards import arm_key
from agent.serving.traffic.variants import bounds_of, position, salt_of
from shared.traffic import line_of

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from agent.serving.traffic.rewards import Posterior, RewardLedger
    from agent.serving.traffic.variants import Draw
    from shared.ids import ReleaseId
    from shared.traffic import TrafficRule

EXPLORED: Final = 0.05
"""Share (0..1) of the requests that all arms divide evenly, whatever was learned: so that an arm which began badly, or
has become better since, is noticed; and no arm of K gets less than this share / K."""

DRAWS: Final = 128
LEARN_EVERY: Final = 64


class Bandit:
    """One model's traffic. A new plan makes a new one; what it learned is in the ledger."""

    def __init__(
        self,
        rule: TrafficRule,
        arms: Mapping[str, ReleaseId],
        *,
        alive: Collection[str],
        ledger: RewardLedger,
        rng: random.Random,
    ) -> None:
        """`arms` are the variants with weight that can answer, and their releases; `alive` all that can answer."""
        self._names, self._ledger = tuple(arms), ledger
        self._keys = tuple(arm_key(line_of(rule.model, name), release) for name, release in arms.items())
        self._pins = {value: name for value, name in rule.pins.items() if name in alive}
        self._salt = salt_of(rule.model)
        self._generator = np.random.default_rng(rng.getrandbits(64))
        self._bounds: tuple[float, ...] = ()
        self._left = 0
        self._learn()

    @property
    def shares(self) -> dict[str, float]:
        """How much of the requests each variant gets now."""
        starts = (0.0, *self._bounds)
        return {name: end - start for name, end, start in zip(self._names, self._bounds, starts, strict=False)}

    @property
    def posteriors(self) -> dict[str, Posterior]:
        """What is known of each arm."""
        return {name: self._ledger.posterior(key) for name, key in zip(self._names, self._keys, strict=True)}

    def choose(self, value: str, draw: Draw) -> str:
        """Return the variant that answers; `value` is what is sticky, empty for nothing."""
        self._left -= 1
        if self._left < 0:
            self._learn()
        if not value:
            return self._names[bisect_right(self._bounds, draw())]
        pinned = self._pins.get(value)
        return pinned or self._names[bisect_right(self._bounds, position(self._salt, value))]

    def _learn(self) -> None:
        """Set the shares by what the posteriors say now."""
        known = [self._ledger.posterior(key) for key in self._keys]
        alphas, betas = [each.alpha for each in known], [each.beta for each in known]
        best = self._generator.beta(alphas, betas, size=(DRAWS, len(known))).argmax(axis=1)
        wins = np.bincount(best, minlength=len(known))
        even = EXPLORED / len(known)
        self._bounds = bounds_of([even + (1.0 - EXPLORED) * count / DRAWS for count in wins.tolist()])
        self._left = LEARN_EVERY
