"""What the controller says of itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from aiohttp import web
from pydantic import BaseModel

from controller.http.endpoint import Call, Endpoint
from shared.errors import RetryableError

if TYPE_CHECKING:
    from controller.db.engine import Database
    from controller.fleet.service import FleetService
    from controller.mqtt import BrokerLink
    from controller.trust.installation import Trust

# A probe must answer before the one who asks gives up, also when the database does not.
_PROBE_S = 2.0


class StatusView(BaseModel):
    """The installation at a glance."""

    installation_id: str
    lab_mode: bool
    """All signing keys are on this controller."""
    broker_connected: bool
    devices: int
    version: str


class HealthView(BaseModel):
    """Whether this process works; `degraded` when something that it needs is away, which it waits for by itself."""

    status: str
    database: bool
    broker: bool


def program_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("litefleet")
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRoutes:
    """What the answers are read from."""

    database: Database
    fleet: FleetService
    broker: BrokerLink
    trust: Trust

    async def status(self, _call: Call) -> StatusView:
        """Show the installation."""
        return StatusView(
            installation_id=self.trust.installation_id,
            lab_mode=self.trust.lab_mode,
            broker_connected=self.broker.connected,
            devices=await self.fleet.count(),
            version=program_version(),
        )

    async def health(self, _call: Call) -> HealthView:
        """Say that the process is alive; restarting it would not bring the database or the broker back."""
        database = await self._database_answers()
        broker = self.broker.connected
        return HealthView(status="ok" if database and broker else "degraded", database=database, broker=broker)

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                await self.fleet.count()
        except (RetryableError, TimeoutError):
            return False
        return True


def api_endpoints(routes: StatusRoutes) -> tuple[Endpoint, ...]:
    """Return the operations below the API's prefix."""
    return (
        Endpoint(
            method="GET",
            path="/status",
            summary="Show the installation at a glance",
            handler=routes.status,
            returns=StatusView,
        ),
    )


def root_endpoints(routes: StatusRoutes, description: bytes) -> tuple[Endpoint, ...]:
    """Return what is served beside the API, without a token."""

    async def describe(_call: Call) -> web.Response:
        return web.Response(body=description, content_type="application/json")

    return (
        Endpoint(
            method="GET",
            path="/healthz",
            summary="Say that the process is alive, and what it waits for",
            handler=routes.health,
            returns=HealthView,
            public=True,
        ),
        Endpoint(
            method="GET",
            path="/openapi.json",
            summary="Describe the API",
            handler=describe,
            media="application/json",
            public=True,
        ),
    )
