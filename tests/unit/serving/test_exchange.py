"""Who answers a request: the primary, another version where it may, and never a candidate in the shadow."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.serving.callers.in_flight import Traffic
from agent.serving.errors import ModelUnavailableError
from agent.serving.exchange import LiveLine, LiveRoute
from agent.serving.models.batching import Batcher
from agent.serving.models.instance import Instance
from agent.serving.models.lane import Lane
from agent.serving.models.loading import LoadedModel
from agent.serving.models.resident import Resident
from shared.errors import NotFoundError
from shared.pipeline import MODEL_ONLY
from shared.probe import ExecutionMode, ModelProbe, ThreadTiming
from shared.traffic import MAIN
from tests.support import models
from tests.support.interpreters import DirectedInterpreter
from tests.support.serving import CANDIDATE, MODEL, STABLE, make_slot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.ids import ReleaseId


def _never(resident: Resident) -> asyncio.Future[Instance]:
    raise AssertionError(f"{resident.slot.release_id} is in memory")


def _resident(folder: Path, release: ReleaseId, version: int) -> Resident:
    slot = make_slot(folder, models.one_hot_classifier(), release=release, version=version)
    lane = Lane(MODEL_ONLY, DirectedInterpreter(lambda items: items))
    probe = ModelProbe(
        mode=ExecutionMode.WORKERS, workers=1, threads=1, by_threads=(ThreadTiming(threads=1, p50_ms=1.0),)
    )
    loaded = LoadedModel(workers=(Batcher(lane, {}, {}),), inline=None, probe=probe, least_ms=1.0)
    return Resident(slot, Instance(slot, loaded, loop=asyncio.get_running_loop()), memory_bytes=0, wake=_never)


@pytest.fixture
async def route(tmp_path: Path) -> AsyncIterator[LiveRoute]:
    stable, candidate = _resident(tmp_path, STABLE, 1), _resident(tmp_path, CANDIDATE, 2)
    line = LiveLine(
        line=MODEL,
        variant=MAIN,
        primary=stable,
        shadow=candidate,
        candidate=candidate,
        max_latency_ratio=2.0,
        reason="",
    )
    yield LiveRoute(model=MODEL, lines={MAIN: line})
    for each in (stable, candidate):
        each.retire()


async def test_request_without_a_version_is_the_primarys(route: LiveRoute) -> None:
    assert route.pick(None) is route.primary


async def test_request_for_the_version_that_answers_is_its_own(route: LiveRoute) -> None:
    assert route.pick("1") is route.primary


@pytest.mark.parametrize("version", ["2", "3", "", "01", "1 "])
async def test_request_for_a_version_that_answers_nobody_is_refused(route: LiveRoute, version: str) -> None:
    with pytest.raises(NotFoundError, match="serving version"):
        route.pick(version)


async def test_stable_still_answers_by_version_while_the_candidate_is_primary(route: LiveRoute) -> None:
    line = route.default
    tried = replace(route, lines={MAIN: replace(line, primary=line.candidate, shadow=line.primary)})
    assert tried.pick(None) is line.candidate
    assert tried.pick("1") is route.primary
    assert [each.slot.version_number for each in tried.answering()] == [2, 1]


@pytest.mark.parametrize("version", [None, "2"])
async def test_route_without_a_primary_says_why_and_lets_no_shadow_answer(
    route: LiveRoute, version: str | None
) -> None:
    empty = replace(route, lines={MAIN: replace(route.default, primary=None, reason="damaged: model.tflite")})
    with pytest.raises(ModelUnavailableError, match=r"damaged: model\.tflite"):
        empty.pick(version)


async def test_release_retired_in_the_middle_of_a_request_closes_after_it(route: LiveRoute) -> None:
    assert route.primary is not None
    with route.primary.used():
        route.primary.retire()
        assert not route.primary.is_closed
    assert route.primary.is_closed


async def test_traffic_that_is_idle_ends_at_once() -> None:
    traffic = Traffic()
    assert await traffic.end(within_s=5.0)
    assert traffic.is_ending


async def test_traffic_with_a_request_that_never_ends_is_not_waited_for_longer_than_told() -> None:
    traffic = Traffic()
    with traffic.request():
        assert not await traffic.end(within_s=0.01)


async def test_traffic_ends_when_the_last_of_its_requests_does() -> None:
    traffic = Traffic()
    first, last = traffic.request(), traffic.request()
    first.__enter__()
    last.__enter__()
    async with asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(traffic.end(within_s=5.0))
        first.__exit__(None, None, None)
        assert not ended.done()
        last.__exit__(None, None, None)
    assert ended.result()


async def test_request_that_fails_is_no_longer_in_flight() -> None:
    traffic = Traffic()
    with pytest.raises(ValueError, match="broken"), traffic.request():
        raise ValueError("broken")
    assert await traffic.end(within_s=0.01)
