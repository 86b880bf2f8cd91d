"""The only door into a rollout: load, decide, check, and store state, commands and reasons in one transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog

from controller.rollouts import store
from controller.rollouts.core.invariants import InvariantError, check_step
from controller.rollouts.core.planner import decide, worth_telling
from controller.rollouts.core.types import AssignmentsChanged, Decision, Event, Halt, RolloutState
from controller.rollouts.tables import DecisionRow
from controller.rollouts.work import WORK, drop_evidence, evidence_left, work_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.rollouts.ports import Pulses
    from shared.ids import RolloutId

log = structlog.get_logger(__name__)


class Door:
    """Applies events to rollouts, inside the caller's transaction."""

    def __init__(self, pulses: Pulses) -> None:
        self._pulses = pulses
        self.stuck: dict[RolloutId, str] = {}
        """Rollouts whose next step went wrong, and how. They stand still until an operator asks something of them, or a
        restart, and hold up no other rollout."""

    async def apply(self, uow: UnitOfWork, rollout_id: RolloutId, events: Sequence[Event]) -> list[Decision]:
        """Fold events into a rollout and do what follows: all of it, or nothing.

        Raises:
            NotFoundError: there is no such rollout.
            InvariantError: the planner would break its own rules; nothing is stored.
        """
        stored = await store.load_rollout(uow, rollout_id)
        state = stored.state
        steps: list[tuple[RolloutState, Event, Decision]] = []
        for event in events:
            decision = decide(state, event)
            check_step(state, decision)
            steps.append((state, event, decision))
            state = decision.state
        # Only now, with every step checked: the transaction may belong to other rollouts as well, and go on.
        for before, event, decision in steps:
            await self._carry_out(uow, before, event, decision)
        if state != stored.state:
            await store.save_state(uow, state)
        return [decision for _, _, decision in steps]

    async def step(self, uow: UnitOfWork, rollout_id: RolloutId, event: Event) -> bool:
        """Apply an event that nobody waits for, and say whether that was possible; else the rollout is stuck."""
        return rollout_id not in self.stuck and await self._apply_or_stick(uow, rollout_id, [event])

    async def count_evidence(self, uow: UnitOfWork) -> int:
        """Count what reports left, but of stuck rollouts; comes first in every transaction that moves assignments."""
        counted: list[int] = []
        for rollout_id, rows in (await evidence_left(uow)).items():
            happened = [AssignmentsChanged(at=found.at, changes=found.changes) for found in rows.values()]
            if rollout_id not in self.stuck and await self._apply_or_stick(uow, rollout_id, happened):
                counted += rows
        await drop_evidence(uow, counted)
        return len(counted)

    def stick(self, rollout_id: RolloutId, error: Exception) -> None:
        """Have a rollout stand still, and say why."""
        self.stuck[rollout_id] = str(error)
        log.critical("rollout_stuck", rollout_id=rollout_id, problem=str(error), remedy="abort it, and report this")

    async def _apply_or_stick(self, uow: UnitOfWork, rollout_id: RolloutId, events: Sequence[Event]) -> bool:
        try:
            await self.apply(uow, rollout_id, events)
        except InvariantError as error:
            self.stick(rollout_id, error)
            return False
        return True

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
    # The wave that was judged, which the decision itself may have closed.
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
