"""The statistics against simulated error rates: seeded, so that a figure here is a figure for ever."""

from __future__ import annotations

import random

import pytest

from controller.rollouts.core.statistics.guard import failures_that_stop, guard_evidence, guard_stops
from controller.rollouts.core.statistics.intervals import anytime_interval

_RUNS = 400


def _stopped_at(share: float, devices: int, seed: int) -> int | None:
    """Return how many devices had activated when the guard stopped, looking after every one."""
    draw = random.Random(seed)
    failed = 0
    for exposed in range(1, devices + 1):
        failed += draw.random() < share
        if guard_stops(guard_evidence(exposed=exposed, failed=failed)):
            return exposed
    return None


@pytest.mark.parametrize(("share", "least", "most"), [(0.02, 0.0, 0.01), (0.1, 0.9, 1.0), (0.2, 0.99, 1.0)])
def test_guard_looking_after_every_device_stops_as_often_as_it_should(share: float, least: float, most: float) -> None:
    stopped = sum(_stopped_at(share, 200, seed) is not None for seed in range(_RUNS)) / _RUNS
    assert least <= stopped <= most


def test_guard_with_every_device_failing_stops_at_the_second() -> None:
    assert _stopped_at(1.0, 200, seed=1) == 2


@pytest.mark.parametrize(("devices", "needed"), [(1, None), (2, 2), (12, 4), (100, 10), (500, 26)])
def test_guard_says_with_how_many_failures_it_stops(devices: int, needed: int | None) -> None:
    assert failures_that_stop(devices) == needed


def _false_alarms(devices: int, mean: float, margin: float) -> float:
    """Return how often the interval misses the true mean at any of 24 looks at growing data of each device."""
    alarms = 0
    for seed in range(_RUNS):
        draw = random.Random(seed)
        own = [draw.gauss(mean, 0.02) for _ in range(devices)]
        heard = [0.0] * devices
        for look in range(1, 25):
            heard = [past + draw.gauss(value, 0.05) for past, value in zip(heard, own, strict=True)]
            rates = [past / look for past in heard]
            found = anytime_interval(
                devices=devices,
                total=sum(rates),
                total_squared=sum(rate * rate for rate in rates),
                tau=margin,
                min_sd=1 / 60,
                alpha=0.02,
            )
            if not found.low <= mean <= found.high:
                alarms += 1
                break
    return alarms / _RUNS


@pytest.mark.parametrize("devices", [10, 30])
def test_interval_over_devices_keeps_its_error_rate_under_24_looks(devices: int) -> None:
    # With the variance plugged in the promise of 2 % holds in the limit: 10 devices are allowed a little more.
    assert _false_alarms(devices, mean=0.1, margin=0.1) <= 0.03


def test_interval_of_devices_that_all_agree_is_not_a_point() -> None:
    found = anytime_interval(devices=10, total=0.0, total_squared=0.0, tau=0.1, min_sd=1 / 60, alpha=0.01)
    assert found.high - found.low > 0.01


def test_interval_narrows_with_devices() -> None:
    widths = []
    for devices in (10, 40, 160):
        values = [0.05 + 0.02 * (-1) ** n for n in range(devices)]
        found = anytime_interval(
            devices=devices,
            total=sum(values),
            total_squared=sum(v * v for v in values),
            tau=0.1,
            min_sd=1 / 60,
            alpha=0.01,
        )
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
