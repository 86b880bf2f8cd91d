"""Waves: sizes that can be meant, and a cut that moves nobody."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rollouts.core.types import BUCKET_END, WaveSpec
from controller.rollouts.core.waves import bucket_of, cut_waves, parse_sizes
from shared.errors import InvalidInputError
from shared.ids import DeviceId

_DEFAULT = ("1", "25%", "100%")


def _cut(expressions: tuple[str, ...], devices: int) -> tuple[WaveSpec, ...]:
    return cut_waves(parse_sizes(expressions), [bucket_of("salt", DeviceId(f"d-{n}")) for n in range(devices)])


@pytest.mark.parametrize(
    ("expressions", "devices", "sizes"),
    [
        (_DEFAULT, 12, [1, 2, 9]),
        (_DEFAULT, 100, [1, 24, 75]),
        (_DEFAULT, 10, [1, 1, 8]),
        (_DEFAULT, 4, [1, 3]),
        (_DEFAULT, 1, [1]),
        (("100%",), 7, [7]),
        (("5", "100%"), 3, [3]),
        (("3", "12"), 12, [3, 9]),
    ],
)
def test_waves_of_a_cohort_have_the_sizes_asked_for(
    expressions: tuple[str, ...], devices: int, sizes: list[int]
) -> None:
    assert [wave.size for wave in _cut(expressions, devices)] == sizes


@pytest.mark.parametrize(
    ("expressions", "remedy"),
    [
        ((), "give 1 to 32"),
        (("0%", "100%"), "write a number"),
        (("101%",), "write a number"),
        (("a few", "100%"), "write a number"),
        (("-1", "100%"), "write a number"),
        (("25%", "25%"), "must grow"),
        (("50%", "25%", "100%"), "must grow"),
        (("10", "25%", "100%"), "must grow"),
        (("1", "25%"), 'add "100%"'),
        (("5",), 'add "100%"'),
    ],
)
def test_wave_plan_that_cannot_be_meant_is_refused_with_a_remedy(expressions: tuple[str, ...], remedy: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        _cut(expressions, 20)
    assert remedy in refusal.value.remedy
    assert refusal.value.field == "waves"


def test_empty_cohort_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no enrolled device"):
        _cut(_DEFAULT, 0)


@given(devices=st.integers(1, 200), share=st.integers(1, 99))
def test_waves_cover_every_bucket_once(devices: int, share: int) -> None:
    waves = _cut((f"{share}%", "100%"), devices)
    assert waves[0].lo == 0
    assert waves[-1].hi == BUCKET_END
    assert all(before.hi == after.lo for before, after in pairwise(waves))
    assert sum(wave.size for wave in waves) == devices


@given(name=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True))
def test_bucket_of_a_device_is_stable_and_in_range(name: str) -> None:
    bucket = bucket_of("salt", DeviceId(name))
    assert 0 <= bucket < BUCKET_END
    assert bucket == bucket_of("salt", DeviceId(name))


def test_bucket_with_another_salt_orders_devices_anew() -> None:
    devices = [DeviceId(f"d-{n}") for n in range(50)]
    first = sorted(devices, key=lambda one: bucket_of("a", one))
    assert first != sorted(devices, key=lambda one: bucket_of("b", one))


def test_cut_leaves_devices_where_they_are_when_the_cohort_grows() -> None:
    """A device's bucket does not depend on the others: only the borders move."""
    devices = [DeviceId(f"d-{n}") for n in range(100)]
    before = [bucket_of("salt", one) for one in devices[:50]]
    after = [bucket_of("salt", one) for one in devices]
    assert after[:50] == before
