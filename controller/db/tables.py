"""Every table of the controller: importing this module fills the metadata for migrations and for `create_all`."""

from __future__ import annotations

import controller.db.audit
import controller.db.outbox
import controller.deltas.tables
import controller.desired.tables
import controller.fleet.tables
import controller.registry.tables
import controller.rollouts.tables
import controller.telemetry.tables  # noqa: F401 - imported for what importing them does
