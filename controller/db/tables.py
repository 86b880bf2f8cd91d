"""Every table of the controller: importing this module fills the metadata for migrations and for `create_all`."""

from __future__ import annotations

from controller.db.audit import AuditBatchRow, AuditEntryRow
from controller.db.outbox import OutboxRow

__all__ = ["AuditBatchRow", "AuditEntryRow", "OutboxRow"]
