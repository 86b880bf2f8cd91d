"""What a background loop does while the database, or a peer, is away: it waits and asks again, and says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog

from shared.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

log = structlog.get_logger(__name__)

_LONGEST_S = 15.0


async def retrying(call: Callable[[], Awaitable[T]], *, what: str) -> T:
    """Return what `call` returns, as soon as it no longer raises RetryableError; nobody who waits here gives up."""
    while True:
        try:
            return await call()
        except RetryableError as error:
            log.warning("waiting_to_retry", what=what, reason=error.reason, detail=str(error))
            await asyncio.sleep(min(error.retry_after_s, _LONGEST_S))
