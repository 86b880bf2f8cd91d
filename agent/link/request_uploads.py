"""Requests that serving wrote down and that may leave the device: sent to the controller file by file.

A file that the controller has may be sent again, after a crash or a lost answer: it keeps each record once. One that it
will never take stays on the device, and holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Never

import structlog

from agent.serving.recording.segments import KEPT, UP, files
from shared.errors import InvalidInputError, RetryableError, UntrustedError

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from agent.link.https import DeviceApi

LOOK_EVERY_S: Final = 10.0
_WAIT_S: Final = 120.0
"""After an outage, or a refusal of this device; the records are bounded on disk, and nobody waits for them."""

_log = structlog.get_logger(__name__)


class RequestUploads:
    """Sends what lies ready, oldest first."""

    def __init__(self, api: DeviceApi, folder: Path, *, chance: random.Random) -> None:
        """`chance` spreads the devices of a fleet."""
        self._api, self._folder, self._chance = api, folder, chance

    async def run(self) -> Never:
        """Send what comes, until cancelled."""
        while True:
            is_heard = await self.send_ready()
            await asyncio.sleep((LOOK_EVERY_S if is_heard else _WAIT_S) * self._chance.uniform(0.8, 1.2))

    async def send_ready(self) -> bool:
        """Send every file that lies ready; returns whether the controller has heard of them all."""
        try:
            for path in await asyncio.to_thread(files, self._folder, UP):
                # Without it, the file gave way to newer ones meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    await self._send(path)
                    path.rename(path.with_suffix(KEPT))
        except (RetryableError, UntrustedError, OSError) as exc:
            _log.info("requests_not_sent", error=str(exc))
            return False
        return True

    async def _send(self, path: Path) -> None:
        try:
            await self._api.send_requests(await asyncio.to_thread(path.read_bytes))
        except InvalidInputError as exc:
            _log.warning("requests_refused", file=path.name, error=str(exc))
