"""Holds the loaded releases, converges on plans, and answers: the same engine under every protocol."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Never

import structlog

from agent.core.plan import Applied, Plan, SlotState
from agent.serving.callers.applications import Applications
from agent.serving.errors import DeadlinePassedError, InferenceTimeoutError, ModelUnavailableError
from agent.serving.exchange import Reply
from agent.serving.models.holdings import Holdings
from agent.serving.models.residency import NO_LIMITS
from agent.serving.planned.interim import interim
from agent.serving.recording.recorder import Recorder
from agent.serving.traffic.learning import Learning
from agent.serving.traffic.lines import live_routes
from agent.serving.traffic.shadowing import Shadowing
from agent.serving.traffic.turns import ALONE, REQUEST_DEADLINE_S, turn_beside
from shared.errors import ModelFailedError, NotFoundError, PipelineError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from agent.core.plan import SlotSpec, Stats
    from agent.serving.exchange import Ask, LiveLine, LiveRoute
    from agent.serving.models.holdings import Prepared
    from agent.serving.models.instance import Instance
    from agent.serving.models.loading import LoadedModel
    from agent.serving.models.residency import Limits
    from agent.serving.models.resident import Resident
    from agent.serving.recording.observation import Observer
    from agent.serving.requests import Outcome
    from agent.serving.traffic.rewards import RewardLedger
    from shared.ids import BootId, ModelName, ReleaseId

_log = structlog.get_logger(__name__)


class Engine:
    """The loaded releases and their routes. All methods belong to the event loop."""

    def __init__(
        self,
        *,
        boot_id: BootId,
        load: Callable[[SlotSpec], LoadedModel],
        limits: Limits = NO_LIMITS,
        learning: Learning | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Start empty. `load` is called in a thread, and raises a LitefleetError for a slot that cannot be loaded.

        Without `learning` rewards are remembered in this process alone, for as long as it lives. Without an `observer`
        nobody looks for drift or writes requests down.
        """
        self._holdings = Holdings(load, limits=limits)
        self._learning = learning or Learning.of_this_process()
        self._routes: Mapping[ModelName, LiveRoute] = {}
        self._converging = asyncio.Lock()
        self._in_force = self._newest = Plan(serial=-1)
        self.recorder = Recorder(boot_id)
        self.observer = observer
        self._shadowing = Shadowing(self.recorder)
        self.applications = Applications()
        """Who may call, as the plan in force says."""
        self.serial = -1
        """Of the plan that is in force; -1 before the first."""

    @property
    def routes(self) -> Mapping[ModelName, LiveRoute]:
        """Every model of the plan. Replaced as a whole, never changed."""
        return self._routes

    def route(self, model: ModelName) -> LiveRoute:
        """Return a model's route. Raises NotFoundError, or ModelUnavailableError while no plan has come."""
        route = self._routes.get(model)
        if route is not None:
            return route
        if self.serial < 0:
            raise ModelUnavailableError(model=model, why="starting: no plan yet")
        raise NotFoundError(kind="model", name=model)

    @property
    def residents(self) -> Collection[Resident]:
        """Every release that this process holds, awake or asleep."""
        return self._holdings.residents

    def holds(self, slot: SlotSpec) -> bool:
        """Whether this very release and file is loaded."""
        return self._holdings.holds(slot)

    async def apply(self, plan: Plan, *, refused: Mapping[ReleaseId, str] | None = None) -> Applied:
        """Converge: load what is missing, swap the routes in one assignment, retire what is gone.

        `refused` names releases that are not even to be tried, and why. While a plan before it still loads, what this
        one has of releases in memory is in force at once, and the one before comes into force no more.
        """
        self._newest = plan
        if self._converging.locked():
            self._swap_held(plan, refused or {})
        async with self._converging:
            prepared = await self._holdings.prepare(plan, refused=refused or {})
            if self._newest is plan:
                self._swap(plan, prepared)
        by_release = prepared.by_release
        states = tuple(
            SlotState(
                model=slot.model,
                release_id=slot.release_id,
                loaded=prepared.errors[slot.release_id] is None,
                error=prepared.errors[slot.release_id] or "",
                asleep=prepared.asleep(slot),
                probe=by_release[slot.release_id].probe if slot.release_id in by_release else None,
            )
            for slot in plan.slots
        )
        return Applied(serial=plan.serial, boot_id=self.recorder.boot_id, slots=states)

    @property
    def rewards(self) -> RewardLedger:
        """What is known of rewards."""
        return self._learning.ledger

    def stats(self) -> Stats:
        """Return everything measured in this life of the process."""
        return self.recorder.stats(self.observer.counts() if self.observer is not None else {})

    async def answer(self, ask: Ask) -> Reply:
        """Answer a request.

        Raises:
            NotFoundError: no such model or version.
            ModelUnavailableError: the model has no release that can answer.
            InvalidInputError: the request has more items than the application's quota ever allows.
            PipelineError: the request does not fit the model; ModelFailedError: the model broke.
            RetryableError: the quota is spent, the queue is full, or the model took too long.
        """
        route = self.route(ask.model)
        line, instance = route.choose(ask.version, ask.caller, self._learning.draw)
        application = ask.caller.application
        if application and (items := ask.request.rows) > 1:
            # Whichever protocol they came by, this is where they are first known to be several.
            self.applications.charge(application, items)
        stable = line.shadow if instance is line.candidate and instance is line.primary else None
        if stable is None:
            return await self._answer(ask, route, line, instance, stable=None)
        # It may have to answer in the candidate's place, even if a plan that knows it no more comes meanwhile.
        with stable.used():
            return await self._answer(ask, route, line, instance, stable=stable)

    def answers_at_once(self, model: ModelName) -> bool:
        """Whether small requests are answered on the loop: nobody sleeps, is compared, or would have to step in."""
        route = self._routes.get(model)
        if route is None or route.chooser is not None or route.default.shadow is not None or len(route.lines) > 1:
            return False
        instance = route.primary.instance if route.primary is not None else None
        return instance is not None and instance.is_inline

    def finish(self, reply: Reply, *, ready_s: float) -> None:
        """Count an answer that was ready at `ready_s` (monotonic) and has been sent; then compare it."""
        self.recorder.series(reply.line.line, reply.instance.slot.release_id).answered(reply, ready_s=ready_s)
        if self.observer is not None:
            self.observer.answered(reply, ready_s=ready_s)
        if reply.line.candidate is not None or reply.route.followers:
            self._shadowing.after(reply, is_busy=self._holdings.is_busy)

    async def unload_idle(self) -> Never:
        """Unload what nobody has asked for, for as long as the process lives."""
        await self._holdings.unload_idle()

    async def close(self) -> None:
        """Retire everything, and give the threads a moment to end."""
        self._routes = {}
        await self._holdings.close()

    def _swap_held(self, plan: Plan, refused: Mapping[ReleaseId, str]) -> None:
        """Put in force what needs no loading; nothing is retired before the whole of the plan is."""
        held = self._holdings.all_held()
        between = interim(plan, self._in_force, [release for release in held.by_release if release not in refused])
        self._routes = live_routes(between, held, learn=self._learning.learn)
        _log.info("plan_partly_applied", serial=plan.serial)

    def _swap(self, plan: Plan, prepared: Prepared) -> None:
        by_release = prepared.by_release
        self._learning.keep(plan)
        routes = live_routes(plan, prepared, learn=self._learning.learn)
        # No await between: a request sees the old plan or the new one, never half of each.
        self._routes, self.serial, self._in_force = routes, plan.serial, plan
        self.applications.replace(plan.applications)
        retired = self._holdings.keep(prepared)
        self.recorder.hold(by_release)
        if self.observer is not None:
            self.observer.follow(plan)
        _log.info("plan_applied", serial=plan.serial, loaded=len(by_release), retired=retired)

    async def _answer(
        self, ask: Ask, route: LiveRoute, line: LiveLine, instance: Resident, *, stable: Resident | None
    ) -> Reply:
        """Answer by this release; `stable` is who answers in its place should it fail."""
        learning, series = self._learning, self.recorder.series(line.line, instance.slot.release_id)
        asked_s = time.monotonic()
        turn = turn_beside(stable, instance, ask=ask, line=line, now_s=asked_s) if stable is not None else ALONE
        try:
            outcome = await _run(instance, ask, within_s=turn.within_s, alone=_is_compared(line, instance))
        except (PipelineError, InferenceTimeoutError) as exc:
            if stable is not None:
                is_excused = isinstance(exc, InferenceTimeoutError) and not turn.is_evidence
                failure = DeadlinePassedError() if is_excused else exc
                return await self._rescue(ask, route, line, candidate=instance, stable=stable, failure=failure)
            count = series.failed if _is_own_fault(exc) else series.refused
            count(exc, ask.caller.protocol, took_s=_since(ask.received_s))
            raise
        except RetryableError as exc:
            series.refused(exc, ask.caller.protocol, took_s=_since(ask.received_s))
            raise
        return Reply(
            ask=ask,
            route=route,
            line=line,
            instance=instance,
            outcome=outcome,
            asked_s=asked_s,
            reply_id=learning.reply_id(ask, route, line, instance) if route.chooser is not None else "",
        )

    async def _rescue(
        self,
        ask: Ask,
        route: LiveRoute,
        line: LiveLine,
        *,
        candidate: Resident,
        stable: Resident,
        failure: PipelineError | InferenceTimeoutError | DeadlinePassedError,
    ) -> Reply:
        """Let stable answer what the candidate could not: a bad candidate costs time, and no caller an answer.

        The candidate is not to blame for a deadline that passed.
        """
        series, asked_s = self.recorder.series(line.line, candidate.slot.release_id), time.monotonic()
        took_s = asked_s - ask.received_s
        try:
            outcome = await _run(stable, ask, within_s=REQUEST_DEADLINE_S)
        except (PipelineError, RetryableError) as exc:
            # Both fail alike: most likely the request is wrong, and stable's word on it is the one that callers know.
            both = _is_own_fault(failure) and _is_own_fault(exc)
            count = series.failed if both else series.refused
            count(failure, ask.caller.protocol, took_s=took_s)
            raise exc from failure
        if isinstance(failure, DeadlinePassedError):
            series.refused(failure, ask.caller.protocol, took_s=took_s)
        else:
            series.failed(failure, ask.caller.protocol, took_s=took_s)
            self._shadowing.rescued(line, candidate=candidate, stable=stable, failure=failure, outcome=outcome)
        _log.warning("candidate_failed", model=ask.model, release_id=candidate.slot.release_id, error=str(failure))
        return Reply(
            ask=ask,
            route=route,
            line=line,
            instance=stable,
            outcome=outcome,
            asked_s=asked_s,
            rescued=True,
            reply_id=self._learning.reply_id(ask, route, line, stable) if route.chooser is not None else "",
        )


async def _run(resident: Resident, ask: Ask, *, within_s: float, alone: bool = False) -> Outcome:
    """Answer within so many seconds, and before the caller's own deadline."""
    latest_s, own_s = time.monotonic() + within_s, ask.caller.deadline_s
    deadline_s = latest_s if own_s is None else min(latest_s, own_s)
    try:
        with resident.used():
            instance = resident.instance or await _awake(resident, deadline_s)
            outcome = await instance.run(ask.request, deadline_s=deadline_s, alone=alone)
    except DeadlinePassedError as exc:
        if deadline_s == own_s:
            raise
        raise InferenceTimeoutError(f"the model did not answer within {within_s:.3g} s") from exc
    if own_s is not None and time.monotonic() > own_s:
        raise DeadlinePassedError
    return outcome


async def _awake(resident: Resident, deadline_s: float) -> Instance:
    try:
        async with asyncio.timeout(deadline_s - time.monotonic()):
            return await resident.awake()
    except TimeoutError:
        raise DeadlinePassedError from None


def _is_compared(line: LiveLine, instance: Resident) -> bool:
    """Tell whether the other release is to run this request, too.

    Then neither runs it in a batch, which one of them might have to itself and the other share.
    """
    other = line.beside(instance)
    return other is not None and other.takes_shadows


def _since(moment_s: float) -> float:
    return time.monotonic() - moment_s


def _is_own_fault(failure: Exception) -> bool:
    """Whether the model or this device failed, and not the caller."""
    return isinstance(failure, ModelFailedError | InferenceTimeoutError)
