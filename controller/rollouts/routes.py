"""The API of rollouts."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from pydantic import Field

from controller.http.endpoint import LARGEST, Body, Call, Endpoint, Page, PageQuery, page_of
from controller.http.policy import PolicyBody
from controller.rollouts.spec import RolloutRequest
from controller.rollouts.views import (
    AssignmentView,
    DecisionView,
    PlanView,
    RolloutView,
    assignment_view,
    decision_view,
    plan_view,
    rollout_view,
)
from shared.errors import InvalidInputError
from shared.ids import ReleaseId, RolloutId
from shared.wire import LONGEST_WAIT_S, AssignmentStatus, HaltMode

if TYPE_CHECKING:
    from controller.rollouts.service import RolloutService


class RolloutBody(Body):
    """A rollout to plan or to start."""

    release_id: str
    cohort: str = "all"
    waves: list[str] = Field(default=["1", "25%", "100%"])
    soak_s: float = Field(default=60.0, ge=0, le=LONGEST_WAIT_S)
    on_failure: HaltMode = HaltMode.REVERT
    policy: PolicyBody = PolicyBody()
    wave_deadline_s: float = Field(default=86_400.0, gt=0, le=LONGEST_WAIT_S)
    unreachable_after_s: float = Field(default=600.0, gt=0, le=LONGEST_WAIT_S)
    override_blacklist: bool = False

    def request(self) -> RolloutRequest:
        """Return it as the service takes it."""
        return RolloutRequest(
            release_id=ReleaseId(self.release_id),
            cohort=self.cohort,
            waves=tuple(self.waves),
            soak_s=self.soak_s,
            on_failure=self.on_failure,
            policy=self.policy.policy(),
            wave_deadline_s=self.wave_deadline_s,
            unreachable_after_s=self.unreachable_after_s,
            override_blacklist=self.override_blacklist,
        )


class AbortBody(Body):
    """How to end a rollout."""

    mode: HaltMode = HaltMode.REVERT


class AssignmentQuery(PageQuery):
    """Which assignments."""

    status: AssignmentStatus | None = None


class _Api:
    def __init__(self, service: RolloutService) -> None:
        self._service = service

    async def plan(self, call: Call) -> PlanView:
        """Say what would happen."""
        return plan_view(await self._service.plan(call.body_as(RolloutBody).request()))

    async def create(self, call: Call) -> RolloutView:
        """Start a rollout."""
        return rollout_view(await self._service.create(call.body_as(RolloutBody).request(), actor=call.actor))

    async def page(self, call: Call) -> Page[RolloutView]:
        """Show rollouts, newest first."""
        query = call.query_as(PageQuery)
        found = await self._service.page(after=query.after, limit=query.limit + 1)
        return page_of(found, query.limit, rollout_view, lambda last: last.spec.rollout_id)

    async def get(self, call: Call) -> RolloutView:
        """Show one rollout."""
        return rollout_view(await self._service.get(_rollout(call)))

    async def assignments(self, call: Call) -> Page[AssignmentView]:
        """Show the devices of a rollout."""
        query = call.query_as(AssignmentQuery)
        found = await self._service.assignments(
            _rollout(call), after=query.after, limit=query.limit + 1, status=query.status
        )
        return page_of(found, query.limit, assignment_view, lambda last: last.device_id)

    async def decisions(self, call: Call) -> Page[DecisionView]:
        """Show what was decided, oldest first."""
        query = call.query_as(PageQuery)
        found = await self._service.decisions(_rollout(call), after=_cursor(query.after), limit=query.limit + 1)
        return page_of(found, query.limit, decision_view, lambda last: str(last.id))

    async def pause(self, call: Call) -> RolloutView:
        """Hold a rollout."""
        return rollout_view(await self._service.pause(_rollout(call), actor=call.actor))

    async def resume(self, call: Call) -> RolloutView:
        """Let a rollout go on."""
        return rollout_view(await self._service.resume(_rollout(call), actor=call.actor))

    async def abort(self, call: Call) -> RolloutView:
        """End a rollout for ever."""
        mode = call.body_as(AbortBody).mode
        return rollout_view(await self._service.abort(_rollout(call), mode, actor=call.actor))


def endpoints(service: RolloutService) -> tuple[Endpoint, ...]:
    """Return the operations on rollouts."""
    api = _Api(service)
    return (*_starting(api), *_asking(api), *_reading(api))


def _starting(api: _Api) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="POST",
            path="/rollouts/plan",
            summary="Say who would be in which wave and which gates could decide, without starting anything",
            handler=api.plan,
            body=RolloutBody,
            returns=PlanView,
            errors=(404, 409, 422),
        ),
        Endpoint(
            method="POST",
            path="/rollouts",
            summary="Start a rollout",
            handler=api.create,
            body=RolloutBody,
            returns=RolloutView,
            status=HTTPStatus.CREATED,
            errors=(404, 409, 422),
        ),
    )


def _reading(api: _Api) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="GET",
            path="/rollouts",
            summary="List rollouts, newest first",
            handler=api.page,
            query=PageQuery,
            returns=Page[RolloutView],
        ),
        Endpoint(
            method="GET",
            path="/rollouts/{rollout_id}",
            summary="Show how a rollout stands, and why",
            handler=api.get,
            returns=RolloutView,
            errors=(404,),
        ),
        Endpoint(
            method="GET",
            path="/rollouts/{rollout_id}/assignments",
            summary="List the devices of a rollout",
            handler=api.assignments,
            query=AssignmentQuery,
            returns=Page[AssignmentView],
            errors=(404,),
        ),
        Endpoint(
            method="GET",
            path="/rollouts/{rollout_id}/decisions",
            summary="List what was decided, and why",
            handler=api.decisions,
            query=PageQuery,
            returns=Page[DecisionView],
            errors=(404,),
        ),
    )


def _asking(api: _Api) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="POST",
            path="/rollouts/{rollout_id}/pause",
            summary="Hold a rollout: nothing more is told to devices",
            handler=api.pause,
            returns=RolloutView,
            errors=(404, 409),
        ),
        Endpoint(
            method="POST",
            path="/rollouts/{rollout_id}/resume",
            summary="Let a rollout go on, or accept an inconclusive wave",
            handler=api.resume,
            returns=RolloutView,
            errors=(404, 409),
        ),
        Endpoint(
            method="POST",
            path="/rollouts/{rollout_id}/abort",
            summary="End a rollout for ever; `revert` takes it back from all its devices",
            handler=api.abort,
            body=AbortBody,
            returns=RolloutView,
            errors=(404, 409, 422),
        ),
    )


def _rollout(call: Call) -> RolloutId:
    return RolloutId(call.path["rollout_id"])


def _cursor(after: str | None) -> int:
    if after is None:
        return 0
    if not (after.isascii() and after.isdecimal() and len(after) < len(str(LARGEST))):
        raise InvalidInputError(field="after", problem=f"{after!r} is no cursor", remedy="use `next` of the last page")
    return int(after)
