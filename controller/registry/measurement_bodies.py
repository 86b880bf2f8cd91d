"""What the routes of measurements take and show, as OpenAPI describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, Field

from controller.http.endpoint import Body
from controller.http.structs import AsStruct
from controller.registry.core.measurement import BudgetVerdict, Measurement, MeasurementState
from shared.hardware import Runtime
from shared.wire import Figures


class NewMeasurement(Body):
    """On which device to measure."""

    device_id: str = Field(max_length=63)


class MeasurementView(BaseModel):
    """One artifact on one device; times are of one invocation on one thread."""

    conversion_id: str
    sha256: str
    device_id: str
    measurement_id: str
    state: MeasurementState
    reason: str
    """Why it failed."""
    figures: Annotated[Figures | None, AsStruct()]
    """`cpu_*`: processor time, which budgets are held against; `wall_*`: elapsed, beside whatever else ran there."""
    runtime: Runtime
    runtime_version: str
    architecture: str
    ordered_at: datetime
    sent_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, measurement: Measurement) -> Self:
        """Show a measurement."""
        return cls(
            conversion_id=measurement.conversion_id,
            sha256=measurement.sha256,
            device_id=measurement.device_id,
            measurement_id=measurement.measurement_id,
            state=measurement.state,
            reason=measurement.reason,
            figures=measurement.figures,
            runtime=measurement.hardware.runtime,
            runtime_version=measurement.hardware.runtime_version,
            architecture=measurement.hardware.architecture,
            ordered_at=measurement.ordered_at,
            sent_at=measurement.sent_at,
            ended_at=measurement.ended_at,
        )


class BudgetView(BaseModel):
    """Whether an artifact keeps a profile's budget for latency, by the word of the converter or of a device."""

    profile_id: str
    max_latency_ms: float
    latency_p95_ms: float
    measured_on: str
    kept: bool

    @classmethod
    def of(cls, verdict: BudgetVerdict) -> Self:
        """Show a verdict."""
        return cls(
            profile_id=verdict.profile_id,
            max_latency_ms=verdict.max_latency_ms,
            latency_p95_ms=verdict.latency_p95_ms,
            measured_on=verdict.measured_on,
            kept=verdict.kept,
        )
