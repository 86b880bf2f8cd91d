"""Requests that devices wrote down and may tell: kept once each, however often they are sent, and for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from controller.telemetry import request_store
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.ids import ModelName
from shared.request_log import MAX_RECORD_BYTES, REQUEST_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.engine import Database
    from controller.telemetry.request_store import StoredRequest
    from shared.ids import DeviceId

KEPT_FOR: Final = timedelta(days=7)
KEPT_PER_DEVICE: Final = 10_000
"""Whatever a device sends, it takes no more room than this many lines; its own oldest give way."""
_MAX_ID: Final = 80
_MAX_NAME: Final = 63


class _Envelope(msgspec.Struct, frozen=True):
    """What is read of a line; the rest of it is kept as it came."""

    type: str
    id: str
    data: _Subject


class _Subject(msgspec.Struct, frozen=True):
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecords:
    """What devices have sent, for showing."""

    database: Database
    per_device: int = KEPT_PER_DEVICE

    async def take(self, device: DeviceId, lines: bytes) -> None:
        """Keep what is new of a device's lines.

        Raises:
            InvalidInputError: a line is no record; nothing of the body is kept.
        """
        records = [_record(number, line) for number, line in enumerate(lines.splitlines(), 1)]
        if not records:
            return
        async with self.database.unit_of_work(actor=device) as uow:
            await request_store.write(uow.session, device, records, uow.clock.now())
            await request_store.trim(uow.session, device, keep=self.per_device)

    async def listed(
        self, device: DeviceId, *, model: str | None, after: str | None, limit: int
    ) -> Sequence[StoredRequest]:
        """Return a device's records in the order of their ids: oldest first, process by process."""
        async with self.database.unit_of_work() as uow:
            return await request_store.listed(uow.session, device, model=model, after=after, limit=limit)

    async def clear_out(self) -> None:
        """Delete what is older than it is kept; for the ticker, hourly."""
        async with self.database.unit_of_work() as uow:
            await request_store.forget(uow.session, before=uow.clock.now() - KEPT_FOR)


def _record(number: int, line: bytes) -> tuple[str, ModelName, str]:
    field = f"line {number}"
    if len(line) > MAX_RECORD_BYTES:
        raise InvalidInputError(field=field, problem=f"is longer than {MAX_RECORD_BYTES} bytes")
    try:
        found, text = msgspec.json.decode(line, type=_Envelope), line.decode()
    except (*MALFORMED, UnicodeDecodeError) as exc:
        raise InvalidInputError(field=field, problem=f"is no record: {exc}") from exc
    if found.type != REQUEST_TYPE or not 0 < len(found.id) <= _MAX_ID or len(found.data.model) > _MAX_NAME:
        raise InvalidInputError(field=field, problem="is no record of a request", remedy=f"type {REQUEST_TYPE}")
    if "\\u0000" in text:
        raise InvalidInputError(field=field, problem="holds a NUL character")
    return found.id, ModelName(found.data.model), text
