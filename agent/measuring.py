"""Measuring one artifact after another, as the core says: fetched, timed in a child, removed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, assert_never

import structlog

from agent.core.commands import ForgetMeasurement, MeasureArtifact, PauseMeasurement
from agent.core.events import MeasurementDelayed, MeasurementFinished
from agent.core.plan import MeasureRequest
from agent.fetching import judged
from agent.serving.children.measure import run_measurement
from shared.errors import LitefleetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from agent.core.events import Event
    from agent.fetching import Fetcher
    from shared.clock import Clock
    from shared.ids import MeasurementId

_log = structlog.get_logger(__name__)


class Measurer:
    """Runs at most one measurement; the core asks for no second one before the first has ended or been paused."""

    def __init__(
        self,
        *,
        clock: Clock,
        fetcher: Fetcher,
        emit: Callable[[Event], Awaitable[None]],
        start: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        self._clock, self._fetcher, self._emit, self._start = clock, fetcher, emit, start
        self._running: tuple[MeasurementId, asyncio.Task[None]] | None = None

    async def execute(self, command: MeasureArtifact | PauseMeasurement | ForgetMeasurement) -> None:
        """Begin, and tell how it went as an event; or end what was begun."""
        match command:
            case MeasureArtifact(wanted=wanted):
                self._running = (wanted.measurement_id, self._start(self._measure(command)))
            case PauseMeasurement(measurement_id=measurement_id):
                await self._end(measurement_id)
            case ForgetMeasurement(measurement_id=measurement_id):
                await self._end(measurement_id)
                await self._fetcher.remove_measured(measurement_id)
            case _:
                assert_never(command)

    async def _end(self, measurement_id: MeasurementId) -> None:
        """Return when its child is gone: a trial of a release must not share the processor with it."""
        if self._running is None or self._running[0] != measurement_id:
            return
        _, task = self._running
        self._running = None
        task.cancel()
        await asyncio.wait([task])

    async def _measure(self, command: MeasureArtifact) -> None:
        wanted = command.wanted
        try:
            path = await self._fetcher.fetch_measured(wanted)
        except (LitefleetError, OSError) as exc:
            problem, reason = judged(exc)
            _log.info("measurement_not_fetched", measurement_id=wanted.measurement_id, reason=reason)
            await self._emit(
                MeasurementDelayed(
                    at=self._clock.now(), measurement_id=wanted.measurement_id, problem=problem, reason=reason
                )
            )
            return
        request = MeasureRequest(
            path=str(path),
            sha256=wanted.artifact.sha256,
            max_memory_bytes=command.max_memory_bytes,
            deadline_s=command.deadline_s,
        )
        try:
            result = await run_measurement(request)
        finally:
            await self._fetcher.remove_measured(wanted.measurement_id)
        await self._emit(MeasurementFinished(at=self._clock.now(), measurement_id=wanted.measurement_id, result=result))
