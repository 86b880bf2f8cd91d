from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.serving.recording.drift import LOOKS, DriftMonitor
from shared.runtime import drift

if TYPE_CHECKING:
    from numpy.random import Generator

    from shared.manifest import ReferenceHistogram

FEATURES, CLASSES = 4, 10
ITEMS = LOOKS[-1]


def figures(rng: Generator, count: int, *, shift: float = 0.0, favourite: float = 0.0) -> list[dict[str, float]]:
    """Figures of items; `shift` moves the first feature by so many deviations; class 0 wins with `favourite`."""
    features = rng.normal(size=(count, FEATURES)) + np.array([shift, 0, 0, 0])
    sure = rng.beta(8, 2, count)
    classes = np.where(rng.random(count) < favourite, 0, rng.integers(0, CLASSES, count))
    return [
        {**drift.input_figures(row), "confidence": float(how), "class": float(which)}
        for row, how, which in zip(features, sure, classes, strict=True)
    ]


def watched(rng: Generator, size: int = 600) -> tuple[ReferenceHistogram, ...]:
    """References of that very population."""
    return drift.references(figures(rng, size))


def alarms(monitor: DriftMonitor, items: list[dict[str, float]]) -> set[str]:
    """Count items; returns every figure that any look found drifted."""
    found: set[str] = set()
    for item in items:
        monitor.count(item)
        found |= {each.figure for each in monitor.found if each.drifted}
    return found


@pytest.mark.parametrize(
    ("changed", "shift", "favourite"), [("input.feature_0", 0.8, 0.0), ("class", 0.0, 0.3), ("class", 0.0, 0.9)]
)
def test_planted_shift_is_found_within_one_window_and_named(changed: str, shift: float, favourite: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        monitor = DriftMonitor(watched(rng))
        assert alarms(monitor, figures(rng, ITEMS, shift=shift, favourite=favourite)) == {changed}


def test_nothing_is_said_before_the_first_look() -> None:
    rng = np.random.default_rng(1)
    monitor = DriftMonitor(watched(rng))
    for item in figures(rng, LOOKS[0] - 1, shift=5.0):
        monitor.count(item)
    assert (monitor.found, monitor.items) == ((), LOOKS[0] - 1)


def test_alarm_ends_with_the_shift() -> None:
    rng = np.random.default_rng(2)
    monitor = DriftMonitor(watched(rng))
    assert alarms(monitor, figures(rng, ITEMS, shift=2.0)) == {"input.feature_0"}
    for item in figures(rng, ITEMS):
        monitor.count(item)
    assert not any(each.drifted for each in monitor.found)
    assert {each.looks for each in monitor.found} == {2 * len(LOOKS)}


def test_later_looks_need_more_to_alarm() -> None:
    rng = np.random.default_rng(3)
    monitor = DriftMonitor(watched(rng, 100))
    limits = []
    for _ in range(5):
        alarms(monitor, figures(rng, ITEMS))
        limits.append(monitor.found[0].threshold)
    assert limits == sorted(set(limits))


def test_processes_that_look_at_the_same_figures_divide_the_promise() -> None:
    rng = np.random.default_rng(5)
    references, items = watched(rng, 100), figures(rng, LOOKS[0])
    limits = []
    for monitors in (1, 4):
        monitor = DriftMonitor(references, monitors=monitors)
        alarms(monitor, items)
        limits.append(monitor.found[0].threshold)
    assert limits[0] < limits[1]


def test_figures_without_a_reference_are_passed_over() -> None:
    rng = np.random.default_rng(4)
    monitor = DriftMonitor(drift.references([{"confidence": each} for each in rng.random(200).tolist()]))
    for item in figures(rng, LOOKS[0]):
        monitor.count(item)
    assert [each.figure for each in monitor.found] == ["confidence"]
