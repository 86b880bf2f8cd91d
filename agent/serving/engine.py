"""Holds the loaded releases, converges on plans, and answers: the same engine under every protocol."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from agent.core.plan import Applied, Plan, SlotState
from agent.serving import routing
from agent.serving.errors import InferenceTimeoutError, ModelUnavailableError
from agent.serving.exchange import LiveRoute, Reply
from agent.serving.instance import Instance
from agent.serving.recorder import Recorder
from agent.serving.workers import SHADOW_QUEUE_LENGTH
from shared.errors import LitefleetError, ModelFailedError, NotFoundError, PipelineError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.core.plan import SlotSpec, Stats
    from agent.serving.comparison import PairTally
    from agent.serving.exchange import Ask
    from agent.serving.loading import LoadedModel
    from agent.serving.requests import Outcome, Request
    from shared.ids import BootId, ModelName, ReleaseId, Sha256

REQUEST_DEADLINE_S = 30.0
"""After this long a caller is told to try again; a model that takes longer is hung, or far too large for the device."""

RESCUE_DEADLINE_S = 5.0
"""A candidate that answers, with stable at its side, gets only this long, so that its callers still get an answer in
time; or ten times what stable takes, if that is longer."""

_CLOSE_S = 2.0

_log = structlog.get_logger(__name__)


class Engine:
    """The loaded releases and their routes. All methods belong to the event loop."""

    def __init__(self, *, boot_id: BootId, load: Callable[[SlotSpec], LoadedModel]) -> None:
        """Start empty. `load` is called in a thread, and raises a LitefleetError for a slot that cannot be loaded."""
        self._load_slot = load
        self._instances: dict[tuple[ReleaseId, Sha256], Instance] = {}
        self._routes: Mapping[ModelName, LiveRoute] = {}
        self._draining: list[Instance] = []
        self._converging = asyncio.Lock()
        # One at a time: two models that load at once would need the memory of both.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
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
        return (slot.release_id, slot.artifact_sha256) in self._instances

    async def apply(self, plan: Plan, *, refused: Mapping[ReleaseId, str] | None = None) -> Applied:
        """Converge: load what is missing, swap the routes in one assignment, retire what is gone.

        `refused` names releases that are not even to be tried, and why.
        """
        async with self._converging:
            errors: dict[ReleaseId, str | None] = {}
            instances: dict[tuple[ReleaseId, Sha256], Instance] = {}
            for slot in plan.slots:
                key, why = (slot.release_id, slot.artifact_sha256), (refused or {}).get(slot.release_id)
                # What is loaded is kept, whatever plan named it first: requests in flight hold on to it.
                loaded = why or self._instances.get(key) or await self._load(slot)
                errors[slot.release_id] = loaded if isinstance(loaded, str) else None
                if isinstance(loaded, Instance):
                    instances[key] = loaded
            self._swap(plan, instances, errors)
        states = tuple(
            SlotState(
                model=slot.model,
                release_id=slot.release_id,
                loaded=errors[slot.release_id] is None,
                error=errors[slot.release_id] or "",
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
        series, asked_s = self.recorder.series(ask.model, instance.slot.release_id), time.monotonic()
        try:
            outcome = await _run(instance, ask.request, deadline_s=_deadline_s(stable))
        except (PipelineError, InferenceTimeoutError) as exc:
            if stable is not None:
                return await self._rescue(ask, route, candidate=instance, stable=stable, failure=exc)
            took_s = _since(ask.received_s)
            series.failed(took_s=took_s) if _is_own_fault(exc) else series.refused(took_s=took_s)
            raise
        except RetryableError:
            series.refused(took_s=_since(ask.received_s))
            raise
        return Reply(ask=ask, route=route, instance=instance, outcome=outcome, asked_s=asked_s)

    def finish(self, reply: Reply, *, ready_s: float) -> None:
        """Count an answer that was ready at `ready_s` (monotonic) and has been sent; then compare it."""
        ask, route = reply.ask, reply.route
        series = self.recorder.series(ask.model, reply.instance.slot.release_id)
        series.answered(reply, ready_s=ready_s)
        shadow = route.shadow
        # A version asked for by name is answered and not compared: it is no sample of what callers send.
        if shadow is None or route.candidate is None or reply.instance is not route.primary:
            return
        # Under load one shadow run may wait, so that a busy device still reaches a verdict; in quiet times, several.
        is_busy = any(each.waiting for each in self._instances.values())
        shadow.run_shadow(
            ask.request, lambda result: self._compare(reply, result), limit=1 if is_busy else SHADOW_QUEUE_LENGTH
        )

    async def close(self) -> None:
        """Retire everything, and give the threads a moment to end."""
        for each in self._instances.values():
            each.retire()
        ending = [*self._instances.values(), *self._draining]
        self._instances, self._routes = {}, {}
        for each in ending:
            await asyncio.to_thread(each.join, timeout_s=_CLOSE_S)
        self._loader.shutdown(wait=False)

    async def _load(self, slot: SlotSpec) -> Instance | str:
        loop, started = asyncio.get_running_loop(), time.monotonic()
        try:
            model = await loop.run_in_executor(self._loader, self._load_blocking, slot)
        except LitefleetError as exc:
            _log.error("slot_not_loaded", model=slot.model, release_id=slot.release_id, error=str(exc))
            return f"{exc.reason}: {exc}"
        instance = Instance(slot, model, loop=loop)
        _log.info(
            "slot_loaded",
            model=slot.model,
            release_id=slot.release_id,
            took_s=round(time.monotonic() - started, 3),
            invoke_ms=round(model.probe_ms, 4),
            inline=instance.is_inline,
        )
        return instance

    def _load_blocking(self, slot: SlotSpec) -> LoadedModel:
        try:
            return self._load_slot(slot)
        except LitefleetError:
            raise
        except Exception as exc:  # a broken file must cost its own slot, not the plan
            raise ModelFailedError(f"{type(exc).__name__}: {exc}") from exc

    def _swap(
        self,
        plan: Plan,
        instances: dict[tuple[ReleaseId, Sha256], Instance],
        errors: Mapping[ReleaseId, str | None],
    ) -> None:
        by_release = {release: instance for (release, _), instance in instances.items()}
        routes: dict[ModelName, LiveRoute] = {}
        for route in plan.routes:
            fitted = routing.resolve(route, errors)
            routes[route.model] = LiveRoute(
                model=route.model,
                primary=by_release[fitted.primary] if fitted.primary else None,
                shadow=by_release[fitted.shadow] if fitted.shadow else None,
                candidate=by_release[fitted.candidate] if fitted.candidate else None,
                max_latency_ratio=fitted.max_latency_ratio,
                reason=fitted.reason,
            )
        gone = [each for key, each in self._instances.items() if key not in instances]
        # No await between: a request sees the old plan or the new one, never half of each.
        self._instances, self._routes, self.serial = instances, routes, plan.serial
        for each in gone:
            each.retire()
        self.recorder.forget_gone(by_release)
        self._draining = [each for each in (*self._draining, *gone) if not each.is_closed]
        _log.info("plan_applied", serial=plan.serial, loaded=len(instances), retired=len(gone))

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
        series, asked_s = self.recorder.series(ask.model, candidate.slot.release_id), time.monotonic()
        took_s = asked_s - ask.received_s
        try:
            outcome = await _run(stable, ask.request, deadline_s=REQUEST_DEADLINE_S)
        except (PipelineError, RetryableError) as exc:
            # Both fail alike: most likely the request is wrong, and stable's word on it is the one that callers know.
            both = _is_own_fault(failure) and _is_own_fault(exc)
            series.failed(took_s=took_s) if both else series.refused(took_s=took_s)
            raise exc from failure
        series.failed(took_s=took_s)
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
            self.recorder.series(route.model, shadow.slot.release_id).ran(result)
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
