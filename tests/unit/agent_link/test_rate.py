"""The slowest that a server may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.rate import RateFloor


def judged(arrivals: list[tuple[float, int]]) -> list[bool]:
    floor = RateFloor(bytes_per_s=100, span_s=10.0, started=0.0)
    return [floor.too_slow(size, at) for at, size in arrivals]


def test_rate_judged_before_the_first_span_ends_is_fine() -> None:
    assert judged([(9.9, 1)]) == [False]


def test_rate_below_the_floor_over_a_span_is_too_slow() -> None:
    assert judged([(5.0, 500), (10.0, 499)]) == [False, True]


def test_rate_at_the_floor_is_fine() -> None:
    assert judged([(5.0, 500), (10.0, 500)]) == [False, False]


def test_rate_fast_at_first_buys_no_slow_end() -> None:
    assert judged([(1.0, 1_000_000), (11.0, 1), (21.0, 1)]) == [False, False, True]


@given(st.lists(st.floats(min_value=0.01, max_value=9.0), min_size=1, max_size=200))
def test_rate_of_an_honest_server_is_never_too_slow(gaps: list[float]) -> None:
    arrivals: list[tuple[float, int]] = []
    now = 0.0
    for gap in gaps:
        now += gap
        arrivals.append((now, round(gap * 200) + 1))
    assert not any(judged(arrivals))
