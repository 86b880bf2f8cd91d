"""Two timers of an assignment: nobody has seen the device (excused), and no progress for too long (a failure)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from controller.rollouts import store
from controller.rollouts.core.types import LIVE, AssignmentsChanged
from controller.rollouts.evidence import change_of
from shared.wire import AssignmentStatus

if TYPE_CHECKING:
    from datetime import datetime

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DeviceFacts
    from controller.rollouts.door import Door
    from controller.rollouts.ports import Cohorts
    from controller.rollouts.spec import Assignment, RolloutSpec
    from shared.ids import RolloutId

PAGE = 500


async def run_timers(uow: UnitOfWork, *, door: Door, cohorts: Cohorts) -> int:
    """Look at the assignments that are due and return how many there were."""
    now = uow.clock.now()
    due = await store.due_assignments(uow, now, PAGE, without=door.stuck)
    if not due:
        return 0
    facts = await cohorts.facts(uow, [one.device_id for one in due])
    by_rollout: dict[RolloutId, list[Assignment]] = defaultdict(list)
    for one in due:
        by_rollout[one.rollout_id].append(one)
    for rollout_id, assignments in by_rollout.items():
        stored = await store.load_rollout(uow, rollout_id)
        live = stored.state.status in LIVE
        pairs = [
            (one, _looked_at(one, stored.spec, facts.get(one.device_id), now) if live else replace(one, due_at=None))
            for one in assignments
        ]
        changes = tuple(c for before, after in pairs if (c := change_of(before, after, stored.spec)) is not None)
        if await door.step(uow, rollout_id, AssignmentsChanged(at=now, changes=changes)):
            await store.update_assignments(uow, [after for _, after in pairs])
    return len(due)


def _looked_at(one: Assignment, spec: RolloutSpec, known: DeviceFacts | None, now: datetime) -> Assignment:
    if known is None:
        return replace(one, status=AssignmentStatus.REMOVED, reason="removed", changed_at=now, due_at=None)
    if one.status is AssignmentStatus.IN_PROGRESS:
        reason = f"timed_out: no progress in {one.phase or 'its work'} for {spec.phase_limit_s:.0f} s"
        return replace(one, status=AssignmentStatus.TIMED_OUT, reason=reason, changed_at=now, due_at=None)
    if one.status is not AssignmentStatus.QUEUED:
        return replace(one, due_at=None)
    # Patience begins when the device was told, or heard last, whichever is later.
    seen = max(known.last_seen_at or one.changed_at, one.opened_at or one.changed_at)
    patience_ends = seen + timedelta(seconds=spec.request.unreachable_after_s)
    if now < patience_ends:
        return replace(one, due_at=patience_ends)
    return replace(one, unreachable=True, due_at=None)
