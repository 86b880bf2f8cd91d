"""One transaction: state, outbox and audit rows are committed together, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from controller.db import audit
from controller.db.outbox import OutboxRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncSession

    from shared.clock import Clock


class UnitOfWork:
    """What a service does its work through; made by `Database.unit_of_work`, which commits it."""

    def __init__(self, *, session: AsyncSession, clock: Clock, actor: str) -> None:
        self.session = session
        self.clock = clock
        self.actor = actor
        self.emitted = False
        self._deeds: list[audit.AuditEntry] = []
        self._calls: list[Callable[[], None]] = []

    def emit(self, kind: str, payload: msgspec.Struct) -> None:
        """Leave an intent for the consumer of `kind`; it is seen iff this unit of work commits."""
        self.emitted = True
        self.session.add(OutboxRow(kind=kind, payload=msgspec.json.encode(payload), created_at=self.clock.now()))

    def audit(self, action: str, subject: str, detail: audit.Detail) -> None:
        """Record a deed of `actor` for ever. Put no secret into `detail`."""
        entry = audit.AuditEntry(
            at=self.clock.now(), actor=self.actor, action=action, subject=subject, detail=dict(detail)
        )
        self._deeds.append(entry)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have `call` made once the transaction is durable; it must not block or raise."""
        self._calls.append(call)

    async def write_audit(self) -> None:
        """Chain what was recorded; the last thing before the commit."""
        if self._deeds:
            await audit.append(self.session, self._deeds)

    def committed(self) -> None:
        """Make the calls that waited for the commit."""
        for call in self._calls:
            call()
