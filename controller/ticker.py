"""The one scheduler: it only says that time has passed; what follows is decided by those who are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from shared.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

log = structlog.get_logger(__name__)


class Ticking(Protocol):
    """Something that lets time pass."""

    async def tick(self) -> None:
        """Look at what is due now."""
        ...


class Ticker:
    """Calls each of `ticking` every `interval_s` seconds; a tick that takes longer makes the next ones fall out."""

    def __init__(self, ticking: Mapping[str, Ticking], *, interval_s: float) -> None:
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        for name, service in ticking.items():
            self._scheduler.add_job(
                guarded(name, service.tick),
                "interval",
                seconds=interval_s,
                id=name,
                max_instances=1,
                coalesce=True,
                # However late the loop is, a tick is worth making.
                misfire_grace_time=None,
            )

    def start(self) -> None:
        """Begin to tick, on the running loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """Tick no more."""
        self._scheduler.shutdown(wait=False)


def guarded(name: str, tick: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return a tick that outlives a database that is away: the next tick tries again."""

    async def once() -> None:
        try:
            await tick()
        except RetryableError as exc:
            log.warning("tick_delayed", service=name, reason=exc.reason)

    return once
