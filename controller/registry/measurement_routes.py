"""Measurements over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from controller.http.endpoint import Call, Endpoint, Page
from controller.registry.measurement_bodies import MeasurementView, NewMeasurement

if TYPE_CHECKING:
    from controller.registry.measurements import Measurements

_PATH = "/conversions/{conversion_id}/measurements"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routes:
    measurements: Measurements

    async def order(self, call: Call) -> Page[MeasurementView]:
        """Have a device time the artifacts of a conversion."""
        device = call.body_as(NewMeasurement).device_id
        asked = await self.measurements.order(call.path["conversion_id"], device, actor=call.actor)
        return Page(items=[MeasurementView.of(one) for one in asked])

    async def list_all(self, call: Call) -> Page[MeasurementView]:
        """Show what devices measured: a few artifacts on a few devices, so that one page holds all."""
        found = await self.measurements.of_conversion(call.path["conversion_id"])
        return Page(items=[MeasurementView.of(one) for one in found])


def endpoints(measurements: Measurements) -> tuple[Endpoint, ...]:
    """Return the operations on measurements."""
    routes = _Routes(measurements=measurements)
    return (
        Endpoint(
            method="POST",
            path=_PATH,
            summary="Have an enrolled device time the artifacts that its class could be given; it serves on meanwhile",
            handler=routes.order,
            body=NewMeasurement,
            returns=Page[MeasurementView],
            status=HTTPStatus.ACCEPTED,
            errors=(404, 409),
        ),
        Endpoint(
            method="GET",
            path=_PATH,
            summary="List what devices measured of a conversion, oldest first",
            handler=routes.list_all,
            returns=Page[MeasurementView],
            errors=(404,),
        ),
    )
