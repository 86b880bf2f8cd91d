"""How long to wait before trying again, so that a fleet does not come back all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


class FullJitter:
    """Waits of 0 .. ceiling seconds, where the ceiling doubles with every try.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015
    """

    def __init__(self, *, first_s: float, ceiling_s: float, chance: random.Random) -> None:
        self._first_s, self._ceiling_s, self._chance = first_s, ceiling_s, chance
        self._next_s = first_s

    def wait_s(self) -> float:
        """Return the next wait, and let the one after it be longer."""
        ceiling_s, self._next_s = self._next_s, min(self._next_s * 2, self._ceiling_s)
        return self._chance.uniform(0.0, ceiling_s)

    def reset(self) -> None:
        """Begin again with short waits: the last try went well."""
        self._next_s = self._first_s
