"""Takes measurements in: each window once, however often it is sent, and the running sums with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from controller.telemetry import store
from controller.telemetry.measurements import Measured, SumKey, WindowKey, looks_in, measured

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import SeenTelemetry
    from controller.telemetry.measurements import FigureLooks
    from shared.ids import DeviceId

_NOTHING = Measured(counts={}, sketches={})
_DRIFT_OF = timedelta(days=1)
# Devices' clocks differ; one that is further ahead than this is wrong.
_CLOCK_AHEAD = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long measurements are kept."""

    windows: timedelta = timedelta(days=7)
    """Also how old a window may be when it comes: a repetition of a deleted one would count twice."""
    sums: timedelta = timedelta(days=90)
    """Since the last window of a release on a device."""


class TelemetryService:
    """Works in the caller's transaction, but for the clearing out."""

    def __init__(self, *, database: Database, retention: Retention | None = None) -> None:
        self._database = database
        self._retention = retention or Retention()

    async def accept(self, uow: UnitOfWork, batch: Sequence[SeenTelemetry]) -> int:
        """Count what is new, and return how many series were refused: impossible values, or a clock that is wrong."""
        now = uow.clock.now()
        oldest, newest = now - self._retention.windows, now + _CLOCK_AHEAD
        came: dict[WindowKey, tuple[float, Measured]] = {}
        refused = 0
        for seen in batch:
            for series in seen.telemetry.series:
                content = measured(series)
                if content is None or not oldest <= seen.telemetry.window_start <= newest:
                    refused += 1
                    continue
                of = SumKey(device_id=seen.device_id, model=series.model, release_id=series.release_id)
                key = WindowKey(of=of, boot_id=seen.boot_id, window_start=seen.telemetry.window_start)
                # The first of a batch wins, as the stored one would: a repetition is the same window, whatever it says.
                came.setdefault(key, (seen.telemetry.window_s, content))
        if came:
            await self._count(uow, came)
        return refused

    async def sums(self, uow: UnitOfWork, ids: Collection[DeviceId]) -> dict[SumKey, Measured]:
        """Return the running sums of every release on these devices."""
        return {key: total for key, (_, total) in (await store.sums(uow.session, ids)).items()}

    async def drift(self, device: DeviceId) -> list[FigureLooks]:
        """Return what a device found of its requests in the last day."""
        async with self._database.unit_of_work() as uow:
            return looks_in(await store.counts_since(uow.session, device, uow.clock.now() - _DRIFT_OF))

    async def clear_out(self) -> None:
        """Delete what is older than it is kept; for the ticker, hourly."""
        async with self._database.unit_of_work() as uow:
            now = uow.clock.now()
            await store.forget(
                uow.session,
                windows_before=now - self._retention.windows,
                sums_before=now - self._retention.sums,
            )

    async def _count(self, uow: UnitOfWork, came: dict[WindowKey, tuple[float, Measured]]) -> None:
        stored = await store.known(uow.session, came)
        fresh = {key: window for key, window in came.items() if key not in stored}
        await store.write_windows(uow.session, fresh)
        totals = await store.sums(uow.session, {key.of.device_id for key in fresh})
        touched: dict[SumKey, tuple[int, Measured]] = {}
        for key, (_, content) in fresh.items():
            windows, total = touched.get(key.of) or totals.get(key.of) or (0, _NOTHING)
            touched[key.of] = (windows + 1, total.plus(content))
        await store.write_sums(uow.session, touched, uow.clock.now())
