"""What follows from a state and is sent iff it differs from what was sent last: plan, boot file, report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.core.commands import ApplyPlan, PublishReport, RemoveRelease, WriteBootFile
from agent.core.lifecycle import pulse_problem
from agent.core.reporting import report_of
from agent.core.retention import removable
from agent.core.routing import boot_file, plan_of
from agent.core.state import now_of

if TYPE_CHECKING:
    from agent.core.commands import Draft
    from agent.core.state import AgentState


def derive(draft: Draft, *, before: AgentState) -> None:
    """Send what differs from what was sent last."""
    _derive_staleness(draft)
    if draft.state is before and not (draft.resend_plan or draft.resend_report):
        return
    # Plan and boot file go before what models asked for: a revert must not wait behind a download.
    wanted = draft.commands
    draft.commands = []
    _derive_plan(draft)
    draft.commands += wanted
    # After the plan, so that serving is told to let go of a release before its folder goes.
    for release_id in removable(draft.state):
        draft.do(RemoveRelease(release_id=release_id))
        rest = tuple(other for other in draft.state.on_disk if other != release_id)
        draft.state = replace(draft.state, on_disk=rest)
    _derive_report(draft)


def _derive_staleness(draft: Draft) -> None:
    state = draft.state
    expired = state.desired is not None and now_of(state, draft.at) >= state.desired.expires_at
    stale = expired or bool(pulse_problem(state, draft.at))
    if stale is not state.stale:
        draft.state = replace(state, stale=stale, refresh_at=None if stale else state.refresh_at)
        draft.say("stale" if stale else "fresh")


def _derive_plan(draft: Draft) -> None:
    state = draft.state
    if state.desired is None and not state.models:
        # Nothing is known yet, perhaps because the journal was lost: what serving holds is none of our business.
        return
    plan = plan_of(state)
    moved = plan != state.plan
    if not moved and not draft.resend_plan:
        return
    if moved:
        plan = replace(plan, serial=state.plan.serial + 1)
    draft.state = state = replace(state, plan=plan, plan_sent_at=draft.at)
    # The boot file first: should serving die of the plan, it must find its way back.
    if moved or draft.rewrite_boot:
        draft.do(WriteBootFile(boot=boot_file(state)))
    draft.do(ApplyPlan(plan=plan))


def _derive_report(draft: Draft) -> None:
    report = report_of(draft.state)
    if report == draft.state.report and not draft.resend_report:
        return
    # An acknowledgement names a revision: every end that it or an earlier one carried is known to the controller.
    revision = draft.state.report_revision + 1
    outcomes = tuple(
        outcome if outcome.revision else replace(outcome, revision=revision) for outcome in draft.state.outcomes
    )
    draft.state = replace(draft.state, report=report, report_revision=revision, outcomes=outcomes)
    draft.do(PublishReport(report=report, revision=revision))
