"""The only door into a rollout: load, decide, check, and store state, commands and reasons in one transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from controller.rollouts import store
from controller.rollouts.core.invariants import check_step
from controller.rollouts.core.planner import decide, worth_telling
from controller.rollouts.core.types import AssignmentsChanged, Decision, Event, Halt, RolloutState
from controller.rollouts.tables import DecisionRow
from controller.rollouts.work import WORK, take_evidence, work_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.rollouts.ports import Pulses
    from shared.ids import RolloutId


class Door:
    """Applies events to rollouts, inside the caller's transaction."""

    def __init__(self, pulses: Pulses) -> None:
        self._pulses = pulses

    async def apply(self, uow: UnitOfWork, rollout_id: RolloutId, events: Sequence[Event]) -> list[Decision]:
        """Fold events into a rollout and do what follows.

        Raises:
            NotFoundError: there is no such rollout.
            InvariantError: the planner would break its own rules; nothing is stored.
        """
        stored = await store.load_rollout(uow, rollout_id)
        state = stored.state
        decisions: list[Decision] = []
        for event in events:
            decision = decide(state, event)
            check_step(state, decision)
            await self._carry_out(uow, state, event, decision)
            decisions.append(decision)
            state = decision.state
        if state != stored.state:
            await store.save_state(uow, state)
        return decisions

    async def count_evidence(self, uow: UnitOfWork) -> int:
        """Count what reports left; comes first in every transaction that moves assignments."""
        evidence = await take_evidence(uow)
        events: dict[RolloutId, list[Event]] = {}
        for found in evidence:
            events.setdefault(found.rollout_id, []).append(AssignmentsChanged(at=found.at, changes=found.changes))
        for rollout_id, happened in events.items():
            await self.apply(uow, rollout_id, happened)
        return len(evidence)

    async def _carry_out(self, uow: UnitOfWork, before: RolloutState, event: Event, decision: Decision) -> None:
        for command in decision.commands:
            if isinstance(command, Halt):
                await self._pulses.halt(uow, before.rollout_id, command.mode)
                continue
            work = work_of(decision.state, command)
            if work is not None:
                uow.emit(WORK, work)
        if worth_telling(before, decision):
            store.add_decision(uow, _decision_row(uow, before, event, decision))
            detail = {"reason": decision.reason.code, "status": str(decision.state.status)}
            uow.audit("rollout.decided", before.rollout_id, detail)


def _decision_row(uow: UnitOfWork, before: RolloutState, event: Event, decision: Decision) -> DecisionRow:
    after = decision.state
    wave = before.current or after.current
    judged = after.waves[wave.number - 1] if wave is not None else None
    return DecisionRow(
        rollout_id=before.rollout_id,
        at=event.at,
        actor=uow.actor,
        event=type(event).__name__,
        status=after.status,
        wave=judged.number if judged is not None else None,
        verdict=judged.verdict if judged is not None else None,
        reason=decision.reason.code,
        sentence=decision.reason.sentence,
        # With these counts a stop can be replayed.
        numbers=asdict(judged.tally if judged is not None else after.total),
    )
