"""Traffic over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from controller.http.endpoint import Call, Endpoint
from controller.traffic.bodies import DeviceTraffic, NewHalt, NewRequestLog, NewTraffic, OutcomeView

if TYPE_CHECKING:
    from controller.traffic.service import TrafficService


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routes:
    traffic: TrafficService

    async def show(self, call: Call) -> DeviceTraffic:
        """Show a device's variants and rules."""
        device = call.path["device"]
        return DeviceTraffic.of(device, await self.traffic.show(device))

    async def set_traffic(self, call: Call) -> OutcomeView:
        """Change variants and rule."""
        body = call.body_as(NewTraffic)
        outcome = await self.traffic.set_traffic(body.order(), body.scope(), actor=call.actor, dry_run=body.dry_run)
        return OutcomeView.of(outcome, dry_run=body.dry_run)

    async def set_log(self, call: Call) -> OutcomeView:
        """Change what is written down."""
        body = call.body_as(NewRequestLog)
        outcome = await self.traffic.set_log(body.order(), body.scope(), actor=call.actor, dry_run=body.dry_run)
        return OutcomeView.of(outcome, dry_run=body.dry_run)

    async def halt(self, call: Call) -> None:
        """Take back what a change brought."""
        await self.traffic.halt(call.path["change_id"], call.body_as(NewHalt).mode, actor=call.actor)


def endpoints(traffic: TrafficService) -> tuple[Endpoint, ...]:
    """Return the operations on traffic."""
    routes = _Routes(traffic=traffic)
    return (
        Endpoint(
            method="GET",
            path="/devices/{device}/traffic",
            summary="Show which variants of its models a device should run, and who answers which share",
            handler=routes.show,
            returns=DeviceTraffic,
            errors=(404,),
        ),
        Endpoint(
            method="POST",
            path="/traffic",
            summary="Set variants and the traffic rule of a model on a device or a cohort; again, it changes nothing",
            handler=routes.set_traffic,
            body=NewTraffic,
            returns=OutcomeView,
            errors=(404, 409),
        ),
        Endpoint(
            method="POST",
            path="/traffic/{change_id}/halt",
            summary="Take back on every device, within seconds and for ever, the variants that a change brought",
            handler=routes.halt,
            body=NewHalt,
            status=HTTPStatus.NO_CONTENT,
            errors=(404,),
        ),
        Endpoint(
            method="POST",
            path="/request-logs",
            summary="Set what of a model's requests a device or a cohort writes down; the release must consent",
            handler=routes.set_log,
            body=NewRequestLog,
            returns=OutcomeView,
            errors=(404, 409),
        ),
    )
