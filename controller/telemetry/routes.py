"""What devices measured and wrote down, over the operator's API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

from controller.http.endpoint import Call, Endpoint, Page, PageQuery, page_of
from shared.ids import DeviceId

if TYPE_CHECKING:
    from controller.telemetry.measurements import FigureLooks
    from controller.telemetry.request_store import StoredRequest
    from controller.telemetry.requests import RequestRecords
    from controller.telemetry.service import TelemetryService


class RequestLogQuery(PageQuery):
    """Which records."""

    model: str | None = None


class RequestAnswer(BaseModel):
    """One request that a device wrote down."""

    event_id: str
    received_at: datetime
    """When the controller got it."""
    event: dict[str, Any]
    """The CloudEvent, as the device wrote it."""


class DriftAnswer(BaseModel):
    """What a device found of one figure of a release in the last day."""

    model: str
    release_id: str
    figure: str
    looks: int
    alarms: int
    """Of those looks, the ones that found drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routes:
    telemetry: TelemetryService
    requests: RequestRecords

    async def request_log(self, call: Call) -> Page[RequestAnswer]:
        """Show records."""
        query = call.query_as(RequestLogQuery)
        device = DeviceId(call.path["device"])
        found = await self.requests.listed(device, model=query.model, after=query.after, limit=query.limit + 1)
        return page_of(found, query.limit, _request, lambda last: last.event_id)

    async def drift(self, call: Call) -> Page[DriftAnswer]:
        """Show what was looked at: a few figures of a few releases, so that one page holds all."""
        found = await self.telemetry.drift(DeviceId(call.path["device"]))
        return Page(items=[_drift(each) for each in found])


def endpoints(telemetry: TelemetryService, requests: RequestRecords) -> tuple[Endpoint, ...]:
    """Return the operations on what devices sent."""
    routes = _Routes(telemetry=telemetry, requests=requests)
    return (
        Endpoint(
            method="GET",
            path="/devices/{device}/request-log",
            summary="List the requests that a device wrote down and sent, oldest first",
            handler=routes.request_log,
            query=RequestLogQuery,
            returns=Page[RequestAnswer],
            errors=(HTTPStatus.UNPROCESSABLE_ENTITY,),
        ),
        Endpoint(
            method="GET",
            path="/devices/{device}/drift",
            summary="Show where a device found its requests unlike those that its releases were judged on",
            handler=routes.drift,
            returns=Page[DriftAnswer],
        ),
    )


def _request(stored: StoredRequest) -> RequestAnswer:
    event: dict[str, Any] = msgspec.json.decode(stored.event)
    return RequestAnswer(event_id=stored.event_id, received_at=stored.received_at, event=event)


def _drift(found: FigureLooks) -> DriftAnswer:
    return DriftAnswer(
        model=found.model,
        release_id=found.release_id,
        figure=found.figure,
        looks=found.looks,
        alarms=found.alarms,
    )
