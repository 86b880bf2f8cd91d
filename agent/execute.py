"""Doing what the core decided: one `match` from Command to call; what comes of it goes back as an event.

What is quick and must be in order (boot file before plan) is done before `execute` returns. What takes long runs as a
task; each kind is cancelled, joined or repeated as said below, never piled up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, assert_never

import msgspec
import structlog

from agent.core.commands import (
    ApplyPlan,
    CancelFetch,
    Command,
    FetchRelease,
    ForgetMeasurement,
    MeasureArtifact,
    PauseMeasurement,
    PublishReport,
    RemoveRelease,
    RequestDocuments,
    RequestStats,
    RunTrial,
    WriteBootFile,
)
from agent.core.events import (
    FetchFailed,
    FetchFinished,
    PlanApplied,
    StatsMeasured,
    TrialDelayed,
    TrialFinished,
)
from agent.delivery.durable import write_whole
from agent.fetching import judged
from agent.measuring import Measurer
from agent.serving.children.trial import run_trial
from shared.errors import LitefleetError, StorageFullError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    from agent.core.events import Event
    from agent.core.plan import BootFile, Plan
    from agent.delivery.slots import Slots
    from agent.documents import Documents
    from agent.fetching import Fetcher
    from agent.grants import Grants
    from agent.link.outbox import Outbox
    from agent.serving.planned.pool import Serving
    from shared.clock import Clock
    from shared.ids import ModelName, ReleaseId

# A trial that could not begin says nothing of the release.
_NOT_BEGUN = ("memory_short", "trial_not_started")
_BOOT_RETRY_S = 5.0

_log = structlog.get_logger(__name__)


class Executor:
    """The agent's hands."""

    def __init__(
        self,
        *,
        clock: Clock,
        slots: Slots,
        boot_path: Path,
        serving: Serving,
        fetcher: Fetcher,
        documents: Documents,
        grants: Grants,
        emit: Callable[[Event], Awaitable[None]],
        start: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        self._clock, self._slots, self._boot_path, self._serving = clock, slots, boot_path, serving
        self._fetcher, self._documents, self._grants = fetcher, documents, grants
        self._emit, self._start = emit, start
        self._outbox: Outbox | None = None
        self._report: PublishReport | None = None
        self._fetches: dict[tuple[ModelName, ReleaseId], asyncio.Task[None]] = {}
        self._plan: Plan | None = None
        self._told: Plan | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._trial_turn = asyncio.Lock()
        self._measurer = Measurer(clock=clock, fetcher=fetcher, emit=emit, start=start)

    async def execute(self, command: Command) -> None:  # noqa: C901 - one branch a command: a table
        """Do it, or see to it that it is done."""
        match command:
            case WriteBootFile(boot=boot):
                await self._write_boot(boot)
            case ApplyPlan(plan=plan):
                self._apply(plan)
            case FetchRelease():
                self._begin_fetch(command)
            case CancelFetch(model=model, release_id=release_id):
                self._cancel_fetch(model, release_id)
            case RunTrial():
                self._start(self._try(command))
            case MeasureArtifact() | PauseMeasurement() | ForgetMeasurement():
                await self._measurer.execute(command)
            case RemoveRelease(release_id=release_id):
                await self._remove(release_id)
            case RequestDocuments():
                self._once("documents", self._documents.request)
            case RequestStats():
                self._once("stats", self._measure)
            case PublishReport():
                self.publish(command)
            case _:
                assert_never(command)

    # --- boot file and plan ---

    async def _write_boot(self, boot: BootFile) -> None:
        # A retry of an older file must not come after this one and undo it.
        previous = self._running.pop("boot", None)
        if previous is not None:
            previous.cancel()
        if not await self._wrote_boot(boot):
            self._running["boot"] = self._start(self._retry_boot(boot))

    async def _wrote_boot(self, boot: BootFile) -> bool:
        try:
            whole = msgspec.json.encode(self._grants.into_boot(boot))
            await asyncio.to_thread(write_whole, self._boot_path, whole)
        except StorageFullError as exc:
            # Serving can live with the older file: its plan is one that was decided before, its tries still count.
            _log.warning("boot_file_not_written", error=str(exc))
            return False
        return True

    async def _retry_boot(self, boot: BootFile) -> None:
        while True:
            await asyncio.sleep(_BOOT_RETRY_S)
            if await self._wrote_boot(boot):
                return

    def _apply(self, plan: Plan) -> None:
        """Tell serving the newest plan until it answers; an older one that is still waiting gives way."""
        if self._plan is not None and self._plan.serial == plan.serial and not self._idle("plan"):
            return
        self._plan = self._told = plan
        # One that is under way may load for minutes, and this one may say to go back: serving then heeds both.
        if not self._idle("plan"):
            self._running["plan"].cancel()
            del self._running["plan"]
        self._once("plan", self._tell_plan)

    async def _tell_plan(self) -> None:
        while (plan := self._plan) is not None:
            try:
                applied = await self._serving.set_plan(self._grants.into(plan))
            except UnreachableError as exc:
                _log.info("serving_away", error=str(exc))
                await asyncio.sleep(exc.retry_after_s)
                continue
            # A newer one came while this was under way: once more, with that.
            if self._plan is plan:
                self._plan = None
            await self._emit(PlanApplied(at=self._clock.now(), applied=applied))

    async def regrant(self, plan: Plan) -> None:
        """Have applications that came or went known to serving, and to the boot file; `plan` is the fleet's newest."""
        try:
            await asyncio.to_thread(self._grants.renew_boot, self._boot_path, plan)
        except StorageFullError as exc:
            _log.warning("boot_file_not_written", error=str(exc))
        if self._told is not None:
            # The same releases and routes: nothing loads, and nothing of it is news to the core. Another object, so
            # that one which is under way is told once more.
            self._plan = msgspec.structs.replace(self._told)
            self._once("plan", self._tell_plan)

    async def _measure(self) -> None:
        try:
            stats = await self._serving.stats()
        except UnreachableError as exc:
            _log.debug("stats_not_read", error=str(exc))
            return
        if self._outbox is not None:
            self._outbox.measured(stats)
        await self._emit(StatsMeasured(at=self._clock.now(), stats=stats))

    # --- releases ---

    def _begin_fetch(self, command: FetchRelease) -> None:
        # Those that ended are let go, or there would be one for every release of the device's life.
        self._fetches = {key: task for key, task in self._fetches.items() if not task.done()}
        key = (command.model, command.release.release_id)
        if key not in self._fetches:
            self._fetches[key] = self._start(self._fetch(command))

    def _cancel_fetch(self, model: ModelName, release_id: ReleaseId) -> None:
        running = self._fetches.pop((model, release_id), None)
        if running is not None:
            running.cancel()

    async def _fetch(self, command: FetchRelease) -> None:
        model, release_id = command.model, command.release.release_id
        try:
            fetched = await self._fetcher.fetch(command.release)
        except (LitefleetError, OSError) as exc:
            problem, reason = judged(exc)
            _log.info("fetch_failed", model=model, release_id=release_id, reason=reason)
            failed = FetchFailed(
                at=self._clock.now(), model=model, release_id=release_id, problem=problem, reason=reason
            )
            await self._emit(failed)
            return
        finished = FetchFinished(
            at=self._clock.now(),
            model=model,
            release_id=release_id,
            version_number=fetched.version_number,
            fetched_bytes=fetched.fetched_bytes,
        )
        await self._emit(finished)

    async def _try(self, command: RunTrial) -> None:
        # One after the other: two trials would take each other's memory and time.
        async with self._trial_turn:
            result = await run_trial(command.request)
        at, model, release_id = self._clock.now(), command.model, command.release_id
        if not result.passed and result.reason.startswith(_NOT_BEGUN):
            await self._emit(TrialDelayed(at=at, model=model, release_id=release_id, reason=result.reason))
            return
        await self._emit(TrialFinished(at=at, model=model, release_id=release_id, result=result))

    async def _remove(self, release_id: ReleaseId) -> None:
        try:
            await asyncio.to_thread(self._slots.remove, release_id)
        except OSError as exc:
            # It is listed again at the next start, and removed then.
            _log.warning("release_not_removed", release_id=release_id, error=str(exc))

    # --- report ---

    def attach(self, outbox: Outbox) -> None:
        """Speak through this outbox from now on; what was to be published before is published now."""
        self._outbox = outbox
        if self._report is not None:
            outbox.report(self._report.report, revision=self._report.revision)

    def publish(self, command: PublishReport) -> None:
        """Hand the newest report to the outbox, now or as soon as there is one."""
        self._report = command
        if self._outbox is not None:
            self._outbox.report(command.report, revision=command.revision)

    # --- tasks ---

    def _idle(self, name: str) -> bool:
        running = self._running.get(name)
        return running is None or running.done()

    def _once(self, name: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Start it unless it is running: one that runs will find what there is to do."""
        if self._idle(name):
            self._running[name] = self._start(work())
