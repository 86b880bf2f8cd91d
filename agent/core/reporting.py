"""The report that follows from a state: what the device holds and how each assignment stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.core.routing import unavailable_reason
from agent.core.state import Phase, key_of, transfer_of
from shared.ids import Epoch, Generation
from shared.traffic import MAIN, split_line
from shared.wire import TRAFFIC, AssignmentPhase, AssignmentReport, AssignmentStatus, Heartbeat, Report, SlotReport

if TYPE_CHECKING:
    from agent.core.state import AgentState, Attempt, ModelState, Slot

SHOW_EVERY_S = 10.0
"""How often a running comparison is told anew: often enough for a person who watches, at a tenth of the readings."""


def report_of(state: AgentState) -> Report:
    """Return the whole of what the controller should know."""
    desired = state.desired
    return Report(
        epoch=desired.epoch if desired is not None else Epoch(0),
        generation=desired.generation if desired is not None else Generation(0),
        body_digest=state.body_digest,
        agent_version=state.settings.agent_version,
        hardware=state.settings.hardware,
        slots=tuple(_slot(state, model) for model in state.models),
        assignments=_assignments(state),
        stale=state.stale,
        desired_refused=state.desired_refused,
        measurements=tuple(one.ended for one in state.measurements if one.ended is not None) or msgspec.UNSET,
        understands=(TRAFFIC,),
    )


def with_trouble(report: Report, trouble: str) -> Report:
    """Return a report that says why nothing moves: the journal could not take the next step."""
    running = tuple(
        replace(assignment, reason=trouble) if assignment.status is AssignmentStatus.IN_PROGRESS else assignment
        for assignment in report.assignments
    )
    if running != report.assignments:
        return replace(report, assignments=running)
    return replace(report, desired_refused=trouble)


def heartbeat_of(state: AgentState) -> Heartbeat:
    """Return what each heartbeat says."""
    desired = state.desired
    return Heartbeat(
        epoch=desired.epoch if desired is not None else Epoch(0),
        generation=desired.generation if desired is not None else Generation(0),
        body_digest=state.body_digest,
        pulse_serial=state.pulse.serial if state.pulse is not None else 0,
    )


def _slot(state: AgentState, model: ModelState) -> SlotReport:
    name, variant = split_line(model.model)
    return SlotReport(
        model=name,
        variant=msgspec.UNSET if variant == MAIN else variant,
        stable=model.stable.release_id if model.stable is not None else None,
        candidate=model.candidate.release_id if model.candidate is not None else None,
        unavailable_reason=unavailable_reason(state, model) or _stood_in_for(model),
        probe=model.serving.probe or msgspec.UNSET if model.serving is not None else msgspec.UNSET,
    )


def _stood_in_for(model: ModelState) -> str:
    """Return why another release than stable answers, or "" when none does."""
    answering = model.answering
    if model.stable is None or answering is None or not model.stable.damaged:
        return ""
    return f"damaged: {model.stable.damaged}; {answering.release_id} answers until it is mended"


def _assignments(state: AgentState) -> tuple[AssignmentReport, ...]:
    """Return what is under way, what ended and is not acknowledged, and how what is wanted now ended."""
    running = tuple(
        _running(model, model.candidate, model.attempt)
        for model in state.models
        if model.candidate is not None and model.attempt is not None
    )
    # What is wanted now stays listed after its acknowledgement: a restored controller learns it from the next report.
    current = {key_of(model.wanted) for model in state.models if model.wanted is not None}
    under_way = {key_of(assignment) for assignment in running}
    ended = tuple(
        outcome.report
        for outcome in state.outcomes
        if (not outcome.acked or key_of(outcome.report) in current) and key_of(outcome.report) not in under_way
    )
    return ended + running


def _running(model: ModelState, candidate: Slot, attempt: Attempt) -> AssignmentReport:
    release = candidate.release
    return AssignmentReport(
        model=release.model,
        variant=release.variant,
        release_id=release.release_id,
        rollout_id=release.rollout_id,
        attempt=release.attempt,
        status=AssignmentStatus.IN_PROGRESS,
        phase=None if model.phase is Phase.IDLE else AssignmentPhase(model.phase.value),
        activated=attempt.activated,
        reason=attempt.reason,
        changed_at=attempt.changed_at,
        paired=attempt.shown,
        transfer=transfer_of(release, attempt),
    )
