"""Rollouts: planned, started, moved by what happens, explained. Every change of one goes through `Door.apply`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controller.facts import RunningRollout
from controller.rollouts import store
from controller.rollouts.core.invariants import InvariantError
from controller.rollouts.core.planner import draft
from controller.rollouts.core.types import (
    CLOSING,
    AbortAsked,
    AssignmentsChanged,
    Decision,
    Event,
    PauseAsked,
    ResumeAsked,
    Started,
    Tick,
)
from controller.rollouts.door import Door
from controller.rollouts.evidence import accept_reports, change_of
from controller.rollouts.execution import PAGE, Execution
from controller.rollouts.planning import Plan, make_plan
from controller.rollouts.spec import RolloutRequest, RolloutSpec
from controller.rollouts.timers import PAGE as TIMERS_PAGE
from controller.rollouts.timers import run_timers
from controller.rollouts.work import EVIDENCE, WORK, read_work
from shared.clock import mint_id
from shared.errors import ConflictError, PermanentError
from shared.ids import DeviceId, ReleaseId, RolloutId
from shared.wire import AssignmentStatus, HaltMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.rollouts.ports import Cohorts, Desires, Pulses, Releases, VerifiedReport
    from controller.rollouts.spec import Assignment
    from controller.rollouts.store import Stored
    from controller.rollouts.tables import DecisionRow
    from controller.rollouts.work import Work

# A rollout has one or two pieces of work at a time: so many hold all but those that wait behind stuck ones.
_LOOK_AHEAD = 50
_NAMED = 5
"""Devices named in a sentence; the rest is counted."""


class RolloutService:
    """What the rest of the controller may ask of rollouts."""

    def __init__(
        self, *, database: Database, cohorts: Cohorts, releases: Releases, desires: Desires, pulses: Pulses
    ) -> None:
        self._database = database
        self._cohorts = cohorts
        self._releases = releases
        self._door = Door(pulses)
        self._execution = Execution(door=self._door, cohorts=cohorts, releases=releases, desires=desires)

    # --- operators

    async def plan(self, request: RolloutRequest) -> Plan:
        """Say what would happen. Raises what `make_plan` raises."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await make_plan(uow, request, cohorts=self._cohorts, releases=self._releases)

    async def create(self, request: RolloutRequest, *, actor: str) -> Stored:
        """Start a rollout. Raises what `make_plan` raises."""
        async with self._database.unit_of_work(actor=actor) as uow:
            plan = await make_plan(uow, request, cohorts=self._cohorts, releases=self._releases)
            rollout_id = RolloutId(mint_id(uow.clock))
            spec = RolloutSpec(
                rollout_id=rollout_id,
                model=plan.model,
                request=request,
                salt=plan.salt,
                created_by=actor,
                created_at=uow.clock.now(),
            )
            state = draft(rollout_id, request.rules, tuple(wave.spec for wave in plan.waves))
            await store.insert_rollout(uow, store.Stored(spec=spec, state=state))
            uow.audit("rollout.created", rollout_id, {"release": request.release_id, "cohort": request.cohort})
            await self._door.apply(uow, rollout_id, [Started(at=uow.clock.now())])
            return await store.load_rollout(uow, rollout_id)

    async def pause(self, rollout_id: RolloutId, *, actor: str) -> Stored:
        """Hold a rollout. Raises NotFoundError, ConflictError."""
        async with self._database.unit_of_work(actor=actor) as uow:
            return await self._asked(uow, rollout_id, PauseAsked(at=uow.clock.now()))

    async def resume(self, rollout_id: RolloutId, *, actor: str) -> Stored:
        """Let a rollout go on. Raises NotFoundError, ConflictError."""
        async with self._database.unit_of_work(actor=actor) as uow:
            return await self._asked(uow, rollout_id, ResumeAsked(at=uow.clock.now()))

    async def abort(self, rollout_id: RolloutId, mode: HaltMode, *, actor: str) -> Stored:
        """End a rollout for ever. Raises NotFoundError, ConflictError."""
        async with self._database.unit_of_work(actor=actor) as uow:
            return await self._asked(uow, rollout_id, AbortAsked(at=uow.clock.now(), mode=mode))

    async def apply(self, rollout_id: RolloutId, events: Sequence[Event]) -> list[Decision]:
        """Fold events into a rollout in a transaction of its own. Raises NotFoundError."""
        async with self._database.unit_of_work() as uow:
            return await self._door.apply(uow, rollout_id, events)

    # --- what moves by itself

    async def accept(self, uow: UnitOfWork, batch: Sequence[VerifiedReport]) -> None:
        """Take a batch of reports into the assignments, in the caller's transaction."""
        await accept_reports(uow, batch)

    async def consume_evidence(self) -> int:
        """Count what reports left behind, and decide; return how many rows were consumed."""
        if not await self._database.pending(EVIDENCE, 1):
            return 0  # do not take the writer's place for nothing
        async with self._database.unit_of_work() as uow:
            return await self._door.count_evidence(uow)

    async def carry_out_next(self, *, page: int = PAGE) -> int | None:
        """Carry out one page of the oldest piece of work; return the devices touched, None when nothing is left."""
        for item in await self._database.pending(WORK, _LOOK_AHEAD):
            work = read_work(item.payload)
            if work.rollout_id in self._door.stuck:
                continue
            try:
                return await self._carry_out(item.item_id, work, page)
            except (InvariantError, PermanentError) as error:
                # Undone, and left on the outbox: what other rollouts have to do must not wait behind it.
                self._door.stick(work.rollout_id, error)
        return None

    async def tick(self) -> None:
        """Let time pass: timers of assignments, then deadlines and soak times of rollouts."""
        more = True
        while more:
            # A page of timers in one transaction, so that others may write in between.
            async with self._database.unit_of_work() as uow:
                await self._door.count_evidence(uow)
                more = await run_timers(uow, door=self._door, cohorts=self._cohorts) == TIMERS_PAGE
                if not more:
                    await self._pass_time(uow)

    async def device_removed(self, uow: UnitOfWork, device_id: DeviceId) -> None:
        """Excuse a device that was removed, in the caller's transaction."""
        await self._door.count_evidence(uow)
        for one in await store.open_assignments(uow, [device_id]):
            stored = await store.load_rollout(uow, one.rollout_id)
            # A result that is in stays: removing a device must not make its failure unseen.
            status = one.status if one.status not in store.OPEN_STATUSES else AssignmentStatus.REMOVED
            gone = replace(
                one, status=status, reason="removed", going_back=False, changed_at=uow.clock.now(), due_at=None
            )
            await store.update_assignments(uow, [gone])
            change = change_of(one, gone, stored.spec)
            if change is not None:
                # A rollout that is stuck must not keep a device in the fleet.
                await self._door.step(uow, one.rollout_id, AssignmentsChanged(at=uow.clock.now(), changes=(change,)))

    # --- readers

    @property
    def stuck(self) -> Mapping[RolloutId, str]:
        """Rollouts that can take no step of their own, and what went wrong."""
        return self._door.stuck

    async def running(self, uow: UnitOfWork) -> list[RunningRollout]:
        """Return the rollouts that have not ended."""
        return [
            RunningRollout(
                rollout_id=stored.spec.rollout_id, model=stored.spec.model, release_id=stored.spec.request.release_id
            )
            for stored in await store.unfinished(uow)
        ]

    async def in_use(self, uow: UnitOfWork, release_id: ReleaseId) -> str:
        """Say why a release may not be deleted; empty when rollouts do not need it."""
        return await store.release_in_use(uow, release_id)

    async def get(self, rollout_id: RolloutId) -> Stored:
        """Return a rollout. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.load_rollout(uow, rollout_id)

    async def page(self, *, after: str | None, limit: int) -> list[Stored]:
        """Return rollouts, newest first."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.rollouts_page(uow, after, limit)

    async def assignments(
        self, rollout_id: RolloutId, *, after: str | None, limit: int, status: AssignmentStatus | None = None
    ) -> list[Assignment]:
        """Return a rollout's assignments by device id. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            await store.load_rollout(uow, rollout_id)
            return await store.assignments_page(uow, rollout_id, after, limit, status=status)

    async def decisions(self, rollout_id: RolloutId, *, after: int, limit: int) -> list[DecisionRow]:
        """Return what was decided of a rollout, oldest first. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            await store.load_rollout(uow, rollout_id)
            return await store.decisions_page(uow, rollout_id, after, limit)

    async def _carry_out(self, item_id: int, work: Work, page: int) -> int:
        async with self._database.unit_of_work() as uow:
            await self._door.count_evidence(uow)
            touched = await self._execution.carry_out(uow, work, page=page)
            await self._database.mark_done(uow, [item_id])
        return touched

    async def _pass_time(self, uow: UnitOfWork) -> None:
        now = uow.clock.now()
        for stored in await store.unfinished(uow):
            state = stored.state
            until = state.waiting_until
            named: tuple[str, ...] = ()
            if until is not None and now >= until:
                closing = state.status in CLOSING
                named = await store.waited_for(uow, state.rollout_id, closing=closing, limit=_NAMED)
            await self._door.step(uow, state.rollout_id, Tick(at=now, waits_for=named))

    async def _asked(self, uow: UnitOfWork, rollout_id: RolloutId, event: Event) -> Stored:
        await self._door.count_evidence(uow)
        decisions = await self._door.apply(uow, rollout_id, [event])
        # Somebody has looked at it: it may try again.
        uow.after_commit(lambda: self._forgive(rollout_id))
        refusal = next((one for one in decisions if one.refused), None)
        if refusal is not None:
            raise ConflictError(kind="rollout", name=rollout_id, problem=f"stays as it is: {refusal.reason.sentence}")
        uow.audit("rollout.asked", rollout_id, {"event": type(event).__name__})
        return await store.load_rollout(uow, rollout_id)

    def _forgive(self, rollout_id: RolloutId) -> None:
        self._door.stuck.pop(rollout_id, None)
