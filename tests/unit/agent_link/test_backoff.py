"""How long to wait before trying again."""

from __future__ import annotations

import random

from agent.link.backoff import FullJitter


def waits(seed: int, count: int) -> list[float]:
    jitter = FullJitter(first_s=1.0, ceiling_s=120.0, chance=random.Random(seed))
    return [jitter.wait_s() for _ in range(count)]


def test_waits_stay_below_a_ceiling_that_doubles_to_its_end() -> None:
    ceilings = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]
    longest = [max(step) for step in zip(*(waits(seed, 9) for seed in range(200)), strict=True)]
    assert all(0.9 * ceiling < wait <= ceiling for wait, ceiling in zip(longest, ceilings, strict=True))


def test_waits_of_many_devices_are_spread_over_the_whole_span() -> None:
    first = [waits(seed, 1)[0] for seed in range(1000)]
    assert all(80 <= sum(low <= wait * 10 < low + 1 for wait in first) <= 120 for low in range(10))


def test_waits_after_a_good_connection_are_short_again() -> None:
    jitter = FullJitter(first_s=1.0, ceiling_s=120.0, chance=random.Random(1))
    for _ in range(8):
        jitter.wait_s()
    jitter.reset()
    assert jitter.wait_s() <= 1.0
