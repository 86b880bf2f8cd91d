"""Counterparts are found where layers moved, also when hardly a byte stayed equal."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.alignment import Bytes, Run, align
from tests.support.deltas import tuned, weights


def array(data: bytes) -> Bytes:
    return np.frombuffer(data, dtype=np.uint8)


def runs(old: bytes, new: bytes) -> list[Run]:
    return list(align(array(old), array(new)))


def test_equal_files_are_one_run() -> None:
    old = weights(300_000)
    assert runs(old, old) == [Run(length=len(old), old_start=0)]


def test_layers_behind_a_longer_name_are_found_where_they_were() -> None:
    old = weights(200_000)
    new = old[:50_000] + b"a longer name..." + tuned(old[50_000:], share=0.2)
    found = runs(old, new)
    # The block that the name falls into may be told any way.
    assert found[0].old_start == 0
    assert found[-1].old_start == 200_000 - found[-1].length
    assert found[0].length + found[-1].length > len(new) - 1_000


def test_layers_that_changed_places_are_found() -> None:
    first, second = weights(100_000, seed=3), weights(100_000, seed=4)
    places = [run.old_start for run in runs(first + second, second + first) if run.length > 90_000]
    assert [round(place, -3) for place in places if place is not None] == [100_000, 0]


def test_bytes_that_have_no_counterpart_stand_for_themselves() -> None:
    assert [run.old_start for run in runs(weights(50_000), bytes(50_000))] == [None]


@settings(max_examples=60, deadline=None)
@given(old=st.binary(max_size=2_000), new=st.binary(max_size=2_000), shared=st.integers(0, 2_000))
def test_runs_cover_the_new_file_and_stay_inside_the_old_one(old: bytes, new: bytes, shared: int) -> None:
    new = new + old[:shared]
    found = runs(old, new)
    assert sum(run.length for run in found) == len(new)
    for run in found:
        assert run.old_start is None or 0 <= run.old_start <= len(old) - run.length
