"""Holds the loaded releases, converges on plans, and answers: the same engine under every protocol."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from agent.core.plan import Applied, Plan, SlotState
from agent.serving import routing
from agent.serving.errors import InferenceTimeoutError, ModelUnavailableError
from agent.serving.exchange import LiveRoute, Reply
from agent.serving.holdings import Holdings
from agent.serving.recorder import Recorder
from agent.serving.workers import SHADOW_QUEUE_LENGTH
from shared.errors import ModelFailedError, NotFoundError, PipelineError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.core.plan import SlotSpec, Stats
    from agent.serving.comparison import PairTally
    from agent.serving.exchange import Ask
    from agent.serving.holdings import Prepared
    from agent.serving.instance import Instance
    from agent.serving.loading import LoadedModel
    from agent.serving.requests import Outcome, Request
    from shared.ids import BootId, ModelName, ReleaseId

REQUEST_DEADLINE_S = 30.0
"""After this long a caller is told to try again; a model that takes longer is hung, or far too large for the device."""

RESCUE_DEADLINE_S = 5.0
"""A candidate that answers, with stable at its side, gets only this long, so that its callers still get an answer in
time; or ten times what stable takes, if that is longer."""

_log = structlog.get_logger(__name__)


class Engine:
    """The loaded releases and their routes. All methods belong to the event loop."""

    def __init__(self, *, boot_id: BootId, load: Callable[[SlotSpec], LoadedModel]) -> None:
        """Start empty. `load` is called in a thread, and raises a LitefleetError for a slot that cannot be loaded."""
        self._holdings = Holdings(load)
        self._routes: Mapping[ModelName, LiveRoute] = {}
        self._converging = asyncio.Lock()
        self.recorder = Recorder(boot_id)
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

    def holds(self, slot: SlotSpec) -> bool:
        """Whether this very release and file is loaded."""
        return self._holdings.holds(slot)

    async def apply(self, plan: Plan, *, refused: Mapping[ReleaseId, str] | None = None) -> Applied:
        """Converge: load what is missing, swap the routes in one assignment, retire what is gone.

        `refused` names releases that are not even to be tried, and why.
        """
        async with self._converging:
            prepared = await self._holdings.prepare(plan.slots, refused=refused or {})
            self._swap(plan, prepared)
        states = tuple(
            SlotState(
                model=slot.model,
                release_id=slot.release_id,
                loaded=prepared.errors[slot.release_id] is None,
                error=prepared.errors[slot.release_id] or "",
            )
            for slot in plan.slots
        )
        return Applied(serial=plan.serial, boot_id=self.recorder.boot_id, slots=states)

    def stats(self) -> Stats:
        """Return everything measured in this life of the process."""
        return self.recorder.stats()

    async def answer(self, ask: Ask) -> Reply:
        """Answer a request.

        Raises:
            NotFoundError: no such model or version.
            ModelUnavailableError: the model has no release that can answer.
            PipelineError: the request does not fit the model; ModelFailedError: the model broke.
            RetryableError: the queue is full, or the model took too long.
        """
        route = self.route(ask.model)
        instance = route.pick(ask.version)
        stable = route.shadow if instance is route.candidate and instance is route.primary else None
        series, asked_s = self.recorder.series(instance.slot.model, instance.slot.release_id), time.monotonic()
        try:
            outcome = await _run(instance, ask.request, deadline_s=_deadline_s(stable))
        except (PipelineError, InferenceTimeoutError) as exc:
            if stable is not None:
                return await self._rescue(ask, route, candidate=instance, stable=stable, failure=exc)
            count = series.failed if _is_own_fault(exc) else series.refused
            count(exc, ask.caller.protocol, took_s=_since(ask.received_s))
            raise
        except RetryableError as exc:
            series.refused(exc, ask.caller.protocol, took_s=_since(ask.received_s))
            raise
        return Reply(ask=ask, route=route, instance=instance, outcome=outcome, asked_s=asked_s)

    def finish(self, reply: Reply, *, ready_s: float) -> None:
        """Count an answer that was ready at `ready_s` (monotonic) and has been sent; then compare it."""
        ask, route = reply.ask, reply.route
        series = self.recorder.series(reply.instance.slot.model, reply.instance.slot.release_id)
        series.answered(reply, ready_s=ready_s)
        shadow = route.shadow
        # A version asked for by name is answered and not compared: it is no sample of what callers send.
        if shadow is None or route.candidate is None or reply.instance is not route.primary:
            return
        # Under load one shadow run may wait, so that a busy device still reaches a verdict; in quiet times, several.
        is_busy = self._holdings.is_busy
        shadow.run_shadow(
            ask.request, lambda result: self._compare(reply, result), limit=1 if is_busy else SHADOW_QUEUE_LENGTH
        )

    async def close(self) -> None:
        """Retire everything, and give the threads a moment to end."""
        self._routes = {}
        await self._holdings.close()

    def _swap(self, plan: Plan, prepared: Prepared) -> None:
        by_release = prepared.by_release
        routes: dict[ModelName, LiveRoute] = {}
        for route in plan.routes:
            fitted = routing.resolve(route, prepared.errors)
            routes[route.model] = LiveRoute(
                model=route.model,
                primary=by_release[fitted.primary] if fitted.primary else None,
                shadow=by_release[fitted.shadow] if fitted.shadow else None,
                candidate=by_release[fitted.candidate] if fitted.candidate else None,
                max_latency_ratio=fitted.max_latency_ratio,
                reason=fitted.reason,
            )
        # No await between: a request sees the old plan or the new one, never half of each.
        self._routes, self.serial = routes, plan.serial
        retired = self._holdings.keep(prepared)
        self.recorder.hold(by_release)
        _log.info("plan_applied", serial=plan.serial, loaded=len(by_release), retired=retired)

    async def _rescue(
        self,
        ask: Ask,
        route: LiveRoute,
        *,
        candidate: Instance,
        stable: Instance,
        failure: PipelineError | InferenceTimeoutError,
    ) -> Reply:
        """Let stable answer what the candidate could not: a bad candidate costs time, and no caller an answer."""
        series, asked_s = self.recorder.series(candidate.slot.model, candidate.slot.release_id), time.monotonic()
        took_s = asked_s - ask.received_s
        try:
            outcome = await _run(stable, ask.request, deadline_s=REQUEST_DEADLINE_S)
        except (PipelineError, RetryableError) as exc:
            # Both fail alike: most likely the request is wrong, and stable's word on it is the one that callers know.
            both = _is_own_fault(failure) and _is_own_fault(exc)
            count = series.failed if both else series.refused
            count(failure, ask.caller.protocol, took_s=took_s)
            raise exc from failure
        series.failed(failure, ask.caller.protocol, took_s=took_s)
        self._tally(route, candidate=candidate, stable=stable).count(
            candidate=failure if isinstance(failure, PipelineError) else ModelFailedError(str(failure)),
            stable=outcome,
            max_ratio=route.max_latency_ratio,
        )
        _log.warning("candidate_failed", model=ask.model, release_id=candidate.slot.release_id, error=str(failure))
        return Reply(ask=ask, route=route, instance=stable, outcome=outcome, asked_s=asked_s, rescued=True)

    def _compare(self, reply: Reply, result: Outcome | PipelineError) -> None:
        """Count the shadow's run of a request that the primary has answered."""
        route, shadow = reply.route, reply.route.shadow
        if shadow is None:
            return
        if not isinstance(result, PipelineError):
            self.recorder.series(shadow.slot.model, shadow.slot.release_id).ran(result)
        if shadow is route.candidate:
            tally = self._tally(route, candidate=shadow, stable=reply.instance)
            tally.count(candidate=result, stable=reply.outcome, max_ratio=route.max_latency_ratio)
        else:
            tally = self._tally(route, candidate=reply.instance, stable=shadow)
            tally.count(candidate=reply.outcome, stable=result, max_ratio=route.max_latency_ratio)

    def _tally(self, route: LiveRoute, *, candidate: Instance, stable: Instance) -> PairTally:
        return self.recorder.pairs(route.model, candidate=candidate.slot.release_id, stable=stable.slot.release_id)


async def _run(instance: Instance, request: Request, *, deadline_s: float) -> Outcome:
    with instance.used():
        try:
            async with asyncio.timeout(deadline_s):
                return await instance.run(request)
        except TimeoutError as exc:
            raise InferenceTimeoutError(f"the model did not answer within {deadline_s:g} s") from exc


def _deadline_s(stable: Instance | None) -> float:
    if stable is None:
        return REQUEST_DEADLINE_S
    return min(REQUEST_DEADLINE_S, max(RESCUE_DEADLINE_S, 10 * stable.probe_ms / 1000))


def _since(moment_s: float) -> float:
    return time.monotonic() - moment_s


def _is_own_fault(failure: Exception) -> bool:
    """Whether the model or this device failed, and not the caller."""
    return isinstance(failure, ModelFailedError | InferenceTimeoutError)
