"""Every table of the controller: importing this module fills the metadata for migrations and for `create_all`."""

from __future__ import annotations

import controller.db.audit
import controller.db.outbox
import controller.fleet.tables
import controller.registry.tables  # noqa: F401 - imported for what importing them does
