"""Which plan is in force: control's when it speaks, until then the one on disk, with care for candidates that crash."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from agent.core.plan import Applied, GetStats, Plan, SetPlan
from agent.serving.traffic import routing
from shared.ids import ReleaseId

if TYPE_CHECKING:
    from agent.core.plan import BootFile, Stats
    from agent.serving.engine import Engine
    from agent.serving.planned.boot import BootLedger

TRIES_EXHAUSTED = "boot_tries_exhausted: serving ended each time while it held this release"

_log = structlog.get_logger(__name__)


class Planner:
    """Brings plans to the engine. Before a candidate loads, a try is taken off the boot file, on disk."""

    def __init__(self, engine: Engine, ledger: BootLedger, *, together: str = "") -> None:
        """`together` names the round that this process started in with others; empty: it started on its own."""
        self._engine, self._ledger = engine, ledger
        self._together = f"start {together or engine.recorder.boot_id}"
        self._booted = asyncio.Event()
        self._newest: Plan | None = None

    async def boot(self) -> None:
        """Apply the plan on disk, stable releases first; without one, models stay unknown until control speaks."""
        try:
            boot = await asyncio.to_thread(self._ledger.read)
            if boot is not None:
                await self._apply_boot(boot)
        finally:
            # Control's plan waits for this, since the one on disk is never newer than what it has to say.
            self._booted.set()

    async def booted(self, *, within_s: float) -> bool:
        """Wait until the plan on disk is in force, or known not to be there; returns whether that came in time."""
        try:
            async with asyncio.timeout(within_s):
                return await self._booted.wait()
        except TimeoutError:
            return False

    async def answer(self, message: SetPlan | GetStats) -> Applied | Stats:
        """Do what control asks."""
        match message:
            case SetPlan(plan=plan):
                self._newest = plan
                await self._booted.wait()
                return await self._set(plan)
            case GetStats():
                return self._engine.stats()

    async def _apply_boot(self, boot: BootFile) -> None:
        fragile = routing.fragile(boot)
        if not fragile:
            await self._engine.apply(boot.plan)
            return
        # Stable first: if the candidate brings us down, callers were at least answered until then.
        await self._engine.apply(_without(boot.plan, fragile))
        if await asyncio.to_thread(self._ledger.spend_try, boot, together=self._together):
            await self._engine.apply(boot.plan)
            return
        _log.error("candidate_given_up", releases=sorted(fragile), reason=TRIES_EXHAUSTED)
        await self._engine.apply(boot.fallback)

    async def _set(self, plan: Plan) -> Applied:
        refused = await self._refused(plan)
        if self._newest is not plan:
            # The disk was slow, and control has said another thing meanwhile.
            return Applied(serial=plan.serial, boot_id=self._engine.recorder.boot_id)
        return await self._engine.apply(plan, refused=refused)

    async def _refused(self, plan: Plan) -> dict[ReleaseId, str]:
        """Take the try that a candidate needs; returns the releases that have none left, and why."""
        # A release that is loaded already risks nothing by being named again, and takes no try.
        fresh = {slot.release_id for slot in plan.slots if not self._engine.holds(slot)}
        boot = await asyncio.to_thread(self._ledger.read) if fresh else None
        guarded = fresh & routing.fragile(boot) if boot is not None else set[ReleaseId]()
        if boot is None or not guarded:
            return {}
        if await asyncio.to_thread(self._ledger.spend_try, boot, together=f"plan {plan.serial}"):
            return {}
        return dict.fromkeys(guarded, TRIES_EXHAUSTED)


def _without(plan: Plan, releases: frozenset[ReleaseId]) -> Plan:
    """Return the plan without some slots; its routes then fall back by the ordinary rule."""
    slots = tuple(slot for slot in plan.slots if slot.release_id not in releases)
    return replace(plan, slots=slots)
