"""A device's document as it stands in the database, and when a device is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from shared.ids import DeviceId, Epoch, Generation, Sha256
    from shared.wire import Heartbeat


class Standing(StrEnum):
    """Where a device stands, beside what is desired of it."""

    LEVEL = "level"
    BEHIND = "behind"
    WAITING = "waiting"
    """Behind, but told a moment ago."""
    AHEAD = "ahead"
    """It has accepted what this database does not know: the database is older than the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """All but the wishes themselves."""

    device_id: DeviceId
    epoch: Epoch
    generation: Generation
    body_digest: Sha256
    sealed: bytes | None
    issued_at: datetime
    expires_at: datetime
    published: bool
    published_at: datetime | None


def standing(document: Document, heartbeat: Heartbeat, *, now: datetime, patience: timedelta) -> Standing:
    """Compare what a device has accepted with what it should have; `patience` is how long a publication may take."""
    accepted = (heartbeat.epoch, heartbeat.generation)
    wanted = (document.epoch, document.generation)
    if accepted > wanted:
        return Standing.AHEAD
    if accepted == wanted and heartbeat.body_digest == document.body_digest:
        return Standing.LEVEL
    if not document.published or document.published_at is None:
        return Standing.WAITING
    # Published in the future: the clock was wrong then, and says nothing of how long the device has had.
    return Standing.WAITING if timedelta() <= now - document.published_at < patience else Standing.BEHIND
