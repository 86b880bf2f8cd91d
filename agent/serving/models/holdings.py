"""The releases of this process: what a plan lacks is loaded, what it no longer names is retired.

Within limits of memory and idleness a release may be asleep; whoever asks for it has it loaded again.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Never

import structlog

from agent.serving.errors import ModelUnavailableError
from agent.serving.models import residency
from agent.serving.models.instance import Instance
from agent.serving.models.residency import NO_LIMITS, Limits
from agent.serving.models.resident import Asleep, Resident
from agent.stopping import return_memory
from shared.errors import LitefleetError, ModelFailedError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from agent.core.plan import Plan, SlotSpec
    from agent.serving.models.loading import LoadedModel
    from shared.ids import ReleaseId, Sha256

    Key = tuple[ReleaseId, Sha256]

_CLOSE_S = 2.0
# A release that did not load is not tried again by every caller: its files are read whole each time.
_FAILED_FOR_S = 5.0
# How often idle releases are looked for; a tenth of what idleness means, within these.
_LOOK_S = (0.1, 60.0)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What could be loaded of a plan, not yet in force."""

    residents: Mapping[Key, Resident]
    errors: Mapping[ReleaseId, str | None]
    """Each slot's release: None when it can answer, else why it cannot."""
    pinned: frozenset[ReleaseId] = frozenset()
    """Those that stay in memory whatever happens."""

    @property
    def by_release(self) -> dict[ReleaseId, Resident]:
        """The residents by their release."""
        return {release: resident for (release, _), resident in self.residents.items()}

    def asleep(self, slot: SlotSpec) -> str:
        """Say why a slot that can answer is not in memory; empty when it is."""
        resident = self.residents.get(_key(slot))
        return (resident.asleep or "") if resident is not None else ""


class Holdings:
    """All methods belong to the event loop; `prepare` and `keep` are called in turn, by one caller."""

    def __init__(self, load: Callable[[SlotSpec], LoadedModel], *, limits: Limits = NO_LIMITS) -> None:
        """Start empty. `load` is called in a thread, and raises a LitefleetError for a slot that cannot be loaded."""
        self._load_slot, self._limits = load, limits
        self._residents: dict[Key, Resident] = {}
        self._pinned: frozenset[ReleaseId] = frozenset()
        self._draining: list[Instance] = []
        self._waking: dict[Key, asyncio.Future[Instance]] = {}
        # One at a time: two models that load at once would need the memory of both.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    @property
    def is_busy(self) -> bool:
        """Whether a request waits for any of them."""
        return any(each.waiting for each in self._residents.values())

    @property
    def residents(self) -> Collection[Resident]:
        """All of them, awake or asleep."""
        return self._residents.values()

    def holds(self, slot: SlotSpec) -> bool:
        """Whether this very release and file has been loaded; it may be asleep."""
        return _key(slot) in self._residents

    def all_held(self) -> Prepared:
        """Return everything that has been loaded, whichever plan wanted it."""
        return Prepared(residents=dict(self._residents), errors=dict.fromkeys(each for each, _ in self._residents))

    async def prepare(self, plan: Plan, *, refused: Mapping[ReleaseId, str]) -> Prepared:
        """Load what is missing; `refused` names releases that are not even to be tried, and why."""
        errors: dict[ReleaseId, str | None] = {}
        residents: dict[Key, Resident] = {}
        pinned = residency.compared(plan)
        # Until the plan is in force, the one before holds too: its releases answer.
        self._pinned |= pinned
        for slot in plan.slots:
            why = refused.get(slot.release_id)
            # What is loaded is kept, whatever plan named it first: requests in flight hold on to it.
            held = why or await self._held(slot, must_be_awake=slot.release_id in pinned)
            errors[slot.release_id] = held if isinstance(held, str) else None
            if isinstance(held, Resident):
                residents[_key(slot)] = held
        return Prepared(residents=residents, errors=errors, pinned=pinned)

    def keep(self, prepared: Prepared) -> int:
        """Hold these and retire all others; returns how many those are."""
        gone = [each for key, each in self._residents.items() if key not in prepared.residents]
        self._residents, self._pinned = dict(prepared.residents), prepared.pinned
        for each in gone:
            each.retire()
            self._drain(each.instance)
        return len(gone)

    async def unload_idle(self) -> Never:
        """Unload what nobody has asked for, for as long as the process lives."""
        every_s = min(max((self._limits.idle_unload_s or _LOOK_S[1]) / 10, _LOOK_S[0]), _LOOK_S[1])
        while True:
            await asyncio.sleep(every_s)
            # Who was retired while somebody waited for its answer.
            self._drain(None)
            for each in residency.idle(self._residents.values(), self._limits, pinned=self._pinned):
                self._put_to_sleep(each, Asleep.IDLE)

    async def close(self) -> None:
        """Retire everything, and give the threads a moment to end."""
        for each in self._residents.values():
            each.retire()
            self._drain(each.instance)
        self._residents = {}
        for instance in self._draining:
            await asyncio.to_thread(instance.join, timeout_s=_CLOSE_S)
        self._loader.shutdown(wait=False)

    async def _held(self, slot: SlotSpec, *, must_be_awake: bool) -> Resident | str:
        """Return the release, loaded if it was not; or why it cannot be."""
        resident = self._residents.get(_key(slot))
        try:
            if resident is None:
                return await self._load(slot)
            if resident.problem or (must_be_awake and resident.instance is None):
                resident.forgive()
                await asyncio.shield(self._wake(resident))
        except LitefleetError as exc:
            _log.error("slot_not_loaded", model=slot.model, release_id=slot.release_id, error=str(exc))
            why = exc.why if isinstance(exc, ModelUnavailableError) else ""
            return why or f"{exc.reason}: {exc}"
        return resident

    async def _load(self, slot: SlotSpec) -> Resident:
        """Load a release for the first time. Raises a LitefleetError."""
        self._make_room(residency.needed_bytes(slot))
        loop, started = asyncio.get_running_loop(), time.monotonic()
        model = await loop.run_in_executor(self._loader, self._load_blocking, slot)
        instance = Instance(slot, model, loop=loop)
        _log.info(
            "slot_loaded",
            model=slot.model,
            release_id=slot.release_id,
            took_s=round(time.monotonic() - started, 3),
            invoke_ms=round(model.probe_ms, 4),
            inline=instance.is_inline,
        )
        resident = Resident(slot, instance, memory_bytes=residency.taken_bytes(slot, model), wake=self._wake)
        self._residents[_key(slot)] = resident
        return resident

    def _wake(self, resident: Resident) -> asyncio.Future[Instance]:
        """Start to load a release again, or join who has; the answer is an instance, or ModelUnavailableError."""
        key, loop = _key(resident.slot), asyncio.get_running_loop()
        waking = self._waking.get(key)
        if waking is not None:
            return waking
        waking = loop.create_future()
        try:
            resident.check_retry(after_s=_FAILED_FOR_S)
            self._make_room(resident.memory_bytes)
        except RetryableError as exc:
            _refuse(waking, resident, exc)
            return waking
        self._waking[key] = waking
        loading = loop.run_in_executor(self._loader, self._load_blocking, resident.slot)
        loading.add_done_callback(partial(self._loaded_again, resident, waking))
        return waking

    def _loaded_again(
        self, resident: Resident, waking: asyncio.Future[Instance], loading: asyncio.Future[LoadedModel]
    ) -> None:
        slot = resident.slot
        del self._waking[_key(slot)]
        try:
            instance = Instance(slot, loading.result(), loop=loading.get_loop())
        except LitefleetError as exc:
            _log.error("release_not_loaded_again", model=slot.model, release_id=slot.release_id, error=str(exc))
            resident.failed(f"{exc.reason}: {exc}")
            _refuse(waking, resident, exc)
            return
        _log.info("release_loaded_again", model=slot.model, release_id=slot.release_id)
        resident.woke(instance)
        if resident.is_retired:
            self._drain(instance)
        waking.set_result(instance)

    def _load_blocking(self, slot: SlotSpec) -> LoadedModel:
        try:
            return self._load_slot(slot)
        except LitefleetError:
            raise
        except Exception as exc:  # a broken file must cost its own slot, not the plan
            raise ModelFailedError(f"{type(exc).__name__}: {exc}") from exc

    def _make_room(self, wanted_bytes: int) -> None:
        """Evict whom it takes. Raises MemoryBudgetError, and then evicts nobody."""
        for each in residency.victims(self._residents.values(), wanted_bytes, self._limits, pinned=self._pinned):
            self._put_to_sleep(each, Asleep.EVICTED)

    def _put_to_sleep(self, resident: Resident, why: Asleep) -> None:
        self._drain(resident.sleep(why))
        slot = resident.slot
        _log.info("release_unloaded", model=slot.model, release_id=slot.release_id, reason=why)

    def _drain(self, instance: Instance | None) -> None:
        """Remember whose threads are to end with the process, and give back what those took who have ended."""
        draining = (*self._draining, *(() if instance is None else (instance,)))
        closed = [each for each in draining if each.is_closed]
        self._draining = [each for each in draining if each not in closed]
        for each in closed:
            # Two steps: while the first runs, the thread holds on to what is to be given back.
            self._loader.submit(each.join, timeout_s=_CLOSE_S)
        if closed:
            self._loader.submit(return_memory)


def _key(slot: SlotSpec) -> Key:
    return slot.release_id, slot.artifact_sha256


def _refuse(waking: asyncio.Future[Instance], resident: Resident, why: LitefleetError) -> None:
    """Tell all who wait that it does not load."""
    said = why if isinstance(why, ModelUnavailableError) else f"{why.reason}: {why}"
    failure = said if isinstance(said, LitefleetError) else ModelUnavailableError(model=resident.slot.model, why=said)
    waking.set_exception(failure)
    # Nobody may be waiting any more; then it is in the log alone.
    waking.exception()
