"""The loaded releases of this process: what a plan lacks is loaded, what it no longer names is retired."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.serving.instance import Instance
from shared.errors import LitefleetError, ModelFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.core.plan import SlotSpec
    from agent.serving.loading import LoadedModel
    from shared.ids import ReleaseId, Sha256

    Key = tuple[ReleaseId, Sha256]

_CLOSE_S = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What could be loaded of a plan, not yet in force."""

    instances: Mapping[Key, Instance]
    errors: Mapping[ReleaseId, str | None]
    """Each slot's release: None when it is loaded, else why it is not."""

    @property
    def by_release(self) -> dict[ReleaseId, Instance]:
        """The instances by their release."""
        return {release: instance for (release, _), instance in self.instances.items()}


class Holdings:
    """All methods belong to the event loop; `prepare` and `keep` are called in turn, by one caller."""

    def __init__(self, load: Callable[[SlotSpec], LoadedModel]) -> None:
        """Start empty. `load` is called in a thread, and raises a LitefleetError for a slot that cannot be loaded."""
        self._load_slot = load
        self._instances: dict[Key, Instance] = {}
        self._draining: list[Instance] = []
        # One at a time: two models that load at once would need the memory of both.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    @property
    def is_busy(self) -> bool:
        """Whether a request waits for any of them."""
        return any(each.waiting for each in self._instances.values())

    def holds(self, slot: SlotSpec) -> bool:
        """Whether this very release and file is loaded."""
        return (slot.release_id, slot.artifact_sha256) in self._instances

    async def prepare(self, slots: Sequence[SlotSpec], *, refused: Mapping[ReleaseId, str]) -> Prepared:
        """Load what is missing; `refused` names releases that are not even to be tried, and why."""
        errors: dict[ReleaseId, str | None] = {}
        instances: dict[Key, Instance] = {}
        for slot in slots:
            key, why = (slot.release_id, slot.artifact_sha256), refused.get(slot.release_id)
            # What is loaded is kept, whatever plan named it first: requests in flight hold on to it.
            loaded = why or self._instances.get(key) or await self._load(slot)
            errors[slot.release_id] = loaded if isinstance(loaded, str) else None
            if isinstance(loaded, Instance):
                instances[key] = loaded
        return Prepared(instances=instances, errors=errors)

    def keep(self, prepared: Prepared) -> int:
        """Hold these and retire all others; returns how many those are."""
        gone = [each for key, each in self._instances.items() if key not in prepared.instances]
        self._instances = dict(prepared.instances)
        for each in gone:
            each.retire()
        self._draining = [each for each in (*self._draining, *gone) if not each.is_closed]
        return len(gone)

    async def close(self) -> None:
        """Retire everything, and give the threads a moment to end."""
        for each in self._instances.values():
            each.retire()
        ending = [*self._instances.values(), *self._draining]
        self._instances = {}
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
