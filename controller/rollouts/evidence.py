"""Reports become facts: assignments move by compare-and-set, and what moved is left to be counted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec import UnsetType

from controller.rollouts import store
from controller.rollouts.core.tally import HALTED, INCONCLUSIVE, may_become, reason_word
from controller.rollouts.core.types import AssignmentChange
from controller.rollouts.work import EVIDENCE, Evidence
from shared.traffic import MAIN
from shared.wire import TERMINAL, AssignmentStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from controller.db.unit_of_work import UnitOfWork
    from controller.rollouts.ports import VerifiedReport
    from controller.rollouts.spec import Assignment, RolloutSpec
    from shared.ids import DeviceId, RolloutId
    from shared.wire import AssignmentReport, Report


async def accept_reports(uow: UnitOfWork, batch: Sequence[VerifiedReport]) -> None:
    """Move the assignments that a batch of reports speaks of; one read and one write for all of them."""
    devices = sorted({one.device_id for one in batch})
    before = await store.open_assignments(uow, devices)
    if not before:
        return
    now = uow.clock.now()
    specs = {one: (await store.load_rollout(uow, one)).spec for one in {a.rollout_id for a in before}}
    latest = {(one.device_id, one.rollout_id): one for one in before}
    by_device: dict[DeviceId, list[RolloutId]] = defaultdict(list)
    for one in before:
        by_device[one.device_id].append(one.rollout_id)
    for verified in batch:
        for rollout_id in by_device[verified.device_id]:
            place = (verified.device_id, rollout_id)
            latest[place] = heard(latest[place], verified.report, specs[rollout_id], now)
    pairs = [(one, latest[one.device_id, one.rollout_id]) for one in before]
    await store.update_assignments(uow, [after for old, after in pairs if after != old])
    await store.add_transfers(uow, _transfers(pairs))
    leave_evidence(uow, pairs, specs)


def heard(assignment: Assignment, report: Report, spec: RolloutSpec, now: datetime) -> Assignment:
    """Return an assignment after its device's report: terminal is sticky, another attempt's word does not count."""
    said = next(
        (
            one
            for one in report.assignments
            if one.rollout_id == assignment.rollout_id and one.attempt == assignment.attempt
        ),
        None,
    )
    # A device may not report on an assignment that it was never told of, whoever speaks with its key.
    if said is not None and assignment.opened_at is not None and may_become(assignment.status, said.status):
        assignment = _moved(assignment, said, spec, now)
    if assignment.going_back and _is_back(assignment, report, said):
        open_still = assignment.status not in TERMINAL
        status = AssignmentStatus.CANCELED if open_still else assignment.status
        reason = HALTED if open_still else assignment.reason
        assignment = replace(assignment, going_back=False, status=status, reason=reason, phase=None, due_at=None)
    return assignment


def leave_evidence(
    uow: UnitOfWork, pairs: Sequence[tuple[Assignment, Assignment]], specs: dict[RolloutId, RolloutSpec]
) -> None:
    """Leave what the core has to count, one row for each rollout; what it does not see is left out."""
    moved: dict[RolloutId, list[AssignmentChange]] = defaultdict(list)
    for old, after in pairs:
        change = change_of(old, after, specs[old.rollout_id])
        if change is not None:
            moved[old.rollout_id].append(change)
    for rollout_id, changes in moved.items():
        uow.emit(EVIDENCE, Evidence(rollout_id=rollout_id, at=uow.clock.now(), changes=tuple(changes)))


def change_of(before: Assignment | None, after: Assignment, spec: RolloutSpec) -> AssignmentChange | None:
    """Return what the core sees of a change; None when it sees nothing."""
    rules = spec.request.rules
    was = before.core_facts(rules) if before is not None else None
    now = after.core_facts(rules)
    return None if was == now else AssignmentChange(wave=after.wave, before=was, after=now)


def _moved(assignment: Assignment, said: AssignmentReport, spec: RolloutSpec, now: datetime) -> Assignment:
    if said.status is AssignmentStatus.QUEUED or assignment.status in TERMINAL:
        return assignment
    changed = (said.status, said.phase, said.reason) != (assignment.status, assignment.phase, assignment.reason)
    undecided = reason_word(said.reason) == INCONCLUSIVE
    if said.status in TERMINAL or undecided:
        # Whoever could not decide has told so; only the wave's deadline, or more requests, end that.
        due = None
    elif changed or assignment.due_at is None:
        due = now + timedelta(seconds=spec.phase_limit_s)
    else:
        due = assignment.due_at
    fetched_bytes, full_bytes = assignment.fetched_bytes, assignment.full_bytes
    if not isinstance(said.transfer, UnsetType):
        fetched_bytes, full_bytes = said.transfer.fetched_bytes, said.transfer.full_bytes
    return replace(
        assignment,
        status=said.status,
        phase=said.phase,
        reason=said.reason,
        activated=assignment.activated or said.activated,
        unreachable=False,
        paired=said.paired or assignment.paired,
        fetched_bytes=fetched_bytes,
        full_bytes=full_bytes,
        changed_at=now if changed else assignment.changed_at,
        due_at=due,
    )


def _is_main(variant: str | UnsetType) -> bool:
    return isinstance(variant, UnsetType) or variant == MAIN


def _transfers(pairs: Sequence[tuple[Assignment, Assignment]]) -> dict[RolloutId, tuple[int, int]]:
    """Return by how much the bytes of each rollout moved."""
    moved: dict[RolloutId, tuple[int, int]] = {}
    for old, after in pairs:
        if (after.fetched_bytes, after.full_bytes) != (old.fetched_bytes, old.full_bytes):
            fetched, full = moved.get(old.rollout_id, (0, 0))
            moved[old.rollout_id] = (
                fetched + after.fetched_bytes - old.fetched_bytes,
                full + after.full_bytes - old.full_bytes,
            )
    return moved


def _is_back(assignment: Assignment, report: Report, said: AssignmentReport | None) -> bool:
    """Say whether the device holds nothing of the release, and is at work on nothing of it."""
    if said is not None and said.status not in TERMINAL:
        return False
    # A variant that an operator keeps beside may well be the same release: rollouts move the main one alone.
    holds = (slot for slot in report.slots if slot.model == assignment.model and _is_main(slot.variant))
    return all(assignment.release_id not in {slot.stable, slot.candidate} for slot in holds)
