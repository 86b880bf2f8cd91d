"""Devices over the operator's API."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

import msgspec
from pydantic import BaseModel, Field

from controller.http.endpoint import Body, Call, Endpoint, Page, PageQuery, page_of
from controller.http.structs import AsStruct
from shared.probe import ModelProbe
from shared.traffic import MAIN, TrafficRule, line_of

if TYPE_CHECKING:
    from controller.fleet.enrolment import Invite
    from controller.fleet.service import DeviceStory, FleetService

_UNPROCESSABLE = HTTPStatus.UNPROCESSABLE_ENTITY
RuleAnswer = Annotated[TrafficRule, AsStruct()]


class RegisterBody(Body):
    """A device to invite."""

    device_id: str
    site: str = "default"
    labels: dict[str, str] = Field(default_factory=dict)


class LabelBody(Body):
    """All labels of a device, replacing those it has."""

    labels: dict[str, str]


class DeviceQuery(PageQuery):
    """Which devices."""

    query: str = "all"


class InviteAnswer(BaseModel):
    """What a device needs to enrol, once. Holds a secret until then."""

    device_id: str
    token: str
    expires_at: datetime
    controller_url: str
    ca_pem: str


class SlotAnswer(BaseModel):
    """What a device holds for one variant of a model."""

    model: str
    variant: str
    stable: str | None
    candidate: str | None
    unavailable_reason: str
    probe: Annotated[ModelProbe | None, AsStruct()]
    """What the release that serves costs on this device, once it has told."""


class AssignmentAnswer(BaseModel):
    """How one assignment stands, as the device last said."""

    model: str
    variant: str
    release_id: str
    rollout_id: str
    """Or the change of traffic that brought a variant."""
    attempt: int
    status: str
    phase: str | None
    reason: str
    changed_at: datetime


class DeviceAnswer(BaseModel):
    """One device, desired beside reported, and why they differ."""

    device_id: str
    site: str
    labels: dict[str, str]
    enrolled: bool
    removed: bool
    last_seen_at: datetime | None
    architecture: str | None
    generation: int
    observed_generation: int
    desired: dict[str, str]
    """Model → release id; a variant's as `model@variant`."""
    traffic: list[RuleAnswer]
    """How requests are divided among variants; a model without a rule is answered by its main variant."""
    slots: list[SlotAnswer]
    assignments: list[AssignmentAnswer]
    desired_refused: str
    """Why the device refused the newest order that it was given; empty when it took it."""
    explanation: str


def endpoints(service: FleetService) -> tuple[Endpoint, ...]:
    """Return the operations on devices."""
    routes = _Routes(service)
    return (
        Endpoint(
            method="POST",
            path="/devices",
            summary="Invite a device",
            handler=routes.register,
            body=RegisterBody,
            returns=InviteAnswer,
            status=HTTPStatus.CREATED,
            errors=(HTTPStatus.CONFLICT, _UNPROCESSABLE),
        ),
        Endpoint(
            method="GET",
            path="/devices",
            summary="List the devices of a cohort",
            handler=routes.listed,
            query=DeviceQuery,
            returns=Page[DeviceAnswer],
            errors=(_UNPROCESSABLE,),
        ),
        Endpoint(
            method="GET",
            path="/devices/{device}",
            summary="Show a device, and why it is not where it should be",
            handler=routes.show,
            returns=DeviceAnswer,
            errors=(HTTPStatus.NOT_FOUND,),
        ),
        Endpoint(
            method="PATCH",
            path="/devices/{device}",
            summary="Replace a device's labels",
            handler=routes.label,
            body=LabelBody,
            returns=DeviceAnswer,
            errors=(HTTPStatus.NOT_FOUND, _UNPROCESSABLE),
        ),
        Endpoint(
            method="DELETE",
            path="/devices/{device}",
            summary="Take a device out of the fleet",
            handler=routes.remove,
            status=HTTPStatus.NO_CONTENT,
            errors=(HTTPStatus.NOT_FOUND,),
        ),
    )


class _Routes:
    def __init__(self, service: FleetService) -> None:
        self._service = service

    async def register(self, call: Call) -> InviteAnswer:
        """Make a device known and return its invitation."""
        body = call.body_as(RegisterBody)
        invite = await self._service.register(body.device_id, site=body.site, labels=body.labels, actor=call.actor)
        return self._invite(invite)

    async def listed(self, call: Call) -> Page[DeviceAnswer]:
        """Show devices of a cohort."""
        query = call.query_as(DeviceQuery)
        stories = await self._service.listed(query.query, after=query.after, limit=query.limit + 1)
        return page_of(stories, query.limit, _answer, lambda last: last.device.device_id)

    async def show(self, call: Call) -> DeviceAnswer:
        """Show one device."""
        return _answer(await self._service.show(call.path["device"]))

    async def label(self, call: Call) -> DeviceAnswer:
        """Replace labels."""
        labels = call.body_as(LabelBody).labels
        return _answer(await self._service.label(call.path["device"], labels, actor=call.actor))

    async def remove(self, call: Call) -> None:
        """Take a device away."""
        await self._service.remove(call.path["device"], actor=call.actor)

    def _invite(self, invite: Invite) -> InviteAnswer:
        return InviteAnswer(
            device_id=invite.device_id,
            token=invite.token,
            expires_at=invite.expires_at,
            controller_url=self._service.settings.controller_url,
            ca_pem=self._service.ca_pem.decode(),
        )


def _answer(story: DeviceStory) -> DeviceAnswer:
    device, desired, report = story.device, story.desired, story.device.report
    return DeviceAnswer(
        device_id=device.device_id,
        site=device.site,
        labels=device.labels,
        enrolled=device.enrolled,
        removed=device.removed_at is not None,
        last_seen_at=device.sighting.at if device.sighting else None,
        architecture=device.hardware.architecture if device.hardware else None,
        generation=desired.generation if desired else 0,
        observed_generation=device.sighting.generation if device.sighting else 0,
        desired={line_of(m.model, _variant(m.variant)): m.release_id for m in desired.models} if desired else {},
        traffic=list(desired.traffic) if desired else [],
        slots=_slots(story) if report else [],
        assignments=_assignments(story) if report else [],
        desired_refused=report.desired_refused if report else "",
        explanation=story.explanation,
    )


def _slots(story: DeviceStory) -> list[SlotAnswer]:
    report = story.device.report
    return [
        SlotAnswer(
            model=slot.model,
            variant=_variant(slot.variant),
            stable=slot.stable,
            candidate=slot.candidate,
            unavailable_reason=slot.unavailable_reason,
            probe=None if isinstance(slot.probe, msgspec.UnsetType) else slot.probe,
        )
        for slot in (report.slots if report else ())
    ]


def _assignments(story: DeviceStory) -> list[AssignmentAnswer]:
    report = story.device.report
    return [
        AssignmentAnswer(
            model=entry.model,
            variant=_variant(entry.variant),
            release_id=entry.release_id,
            rollout_id=entry.rollout_id,
            attempt=entry.attempt,
            status=entry.status,
            phase=entry.phase,
            reason=entry.reason,
            changed_at=entry.changed_at,
        )
        for entry in (report.assignments if report else ())
    ]


def _variant(said: str | msgspec.UnsetType) -> str:
    return MAIN if isinstance(said, msgspec.UnsetType) else said
