"""Which releases stay in memory: a budget, and who goes first when it is spent. Decides; holdings do it."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.errors import RetryableError
from shared.traffic import line_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agent.core.plan import Plan, SlotSpec
    from agent.serving.models.loading import LoadedModel
    from agent.serving.models.resident import Resident
    from shared.ids import ReleaseId

RECENT_S: Final = 10.0
"""Who answered within this time is not evicted: two models that take turns would otherwise load at every request."""

SHARE_OF_RAM: Final = 0.5
"""Of the machine's memory, for models. The rest is for the system, the agent (110 MiB), what a request holds while it
is answered, and a trial, which has the candidate in memory once more."""

# Beside the file, which all interpreters of a model share, each packs its own copy of the weights, up to 1.6 times the
# file in five models measured, and has arenas.
_PER_FILE_BYTE, _BASE_BYTES = 1.6, 1024 * 1024
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


class MemoryBudgetError(RetryableError):
    """A model does not fit beside those that may not be unloaded."""

    reason = "memory_budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of this process's memory models may take, and for how long."""

    memory_bytes: int | None = None
    """None: as much as they need."""
    idle_unload_s: float | None = None
    """Seconds without a request after which a model is unloaded until the next one; None: never."""
    recent_s: float = RECENT_S


NO_LIMITS: Final = Limits()


def default_budget_bytes() -> int:
    """Return the safe share of what this machine, or the control group around the agent, has of memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such file: no group is in the way
        total = min(total, int(_CGROUP.read_text(encoding="ascii")))
    return int(total * SHARE_OF_RAM)


def needed_bytes(slot: SlotSpec) -> int:
    """Return what a release will take at least, judged by its files: one interpreter of each model."""
    return sum(size + _interpreter_bytes(size) for size in _file_sizes(slot))


def taken_bytes(slot: SlotSpec, model: LoadedModel) -> int:
    """Return what a release takes now that it is loaded: as its probe has measured, where it could."""
    sizes = _file_sizes(slot)
    each = model.probe.interpreter_bytes or sum(_interpreter_bytes(size) for size in sizes)
    return sum(sizes) + model.interpreters * max(each, _BASE_BYTES)


def compared(plan: Plan) -> frozenset[ReleaseId]:
    """Return the releases that must stay in memory: candidates and who they are compared with, and rules' shadows.

    The resting side of a blue-green pair, too, an arm without weight: it is there to be gone back to at once.
    """
    resting = {line_of(rule.model, arm.variant) for rule in plan.traffic for arm in rule.arms if not arm.weight}
    shadows = {line_of(rule.model, rule.shadow) for rule in plan.traffic if rule.shadow} | resting
    return frozenset(
        release
        for route in plan.routes
        if route.candidate is not None or route.shadow is not None or route.model in shadows
        for release in (route.primary, route.shadow, route.candidate)
        if release is not None
    )


def victims(
    held: Collection[Resident], wanted_bytes: int, limits: Limits, *, pinned: frozenset[ReleaseId]
) -> list[Resident]:
    """Return who has to go so that `wanted_bytes` more fit, the least recently used first.

    Raises:
        MemoryBudgetError: even without all that may go, it does not fit.
    """
    if limits.memory_bytes is None:
        return []
    awake = [each for each in held if each.instance is not None]
    missing = sum(each.memory_bytes for each in awake) + wanted_bytes - limits.memory_bytes
    chosen: list[Resident] = []
    for each in sorted(_quiet(awake, limits.recent_s, pinned), key=lambda resident: resident.used_s):
        if missing <= 0:
            break
        chosen.append(each)
        missing -= each.memory_bytes
    if missing > 0:
        held_mib = sum(each.memory_bytes for each in awake) / 2**20
        why = f"it needs {wanted_bytes / 2**20:.1f} MiB beside {held_mib:.1f} MiB of models in use"
        limit = f"model_memory_bytes allows {limits.memory_bytes / 2**20:.1f} MiB to this process"
        raise MemoryBudgetError(f"{why}, and {limit}", retry_after_s=limits.recent_s)
    return chosen


def idle(held: Iterable[Resident], limits: Limits, *, pinned: frozenset[ReleaseId]) -> list[Resident]:
    """Return who has not been asked for so long that it is unloaded."""
    if limits.idle_unload_s is None:
        return []
    quiet = _quiet(held, limits.idle_unload_s, pinned)
    awake_before_s = time.monotonic() - limits.idle_unload_s
    return [each for each in quiet if each.instance is not None and each.woke_s <= awake_before_s]


def _quiet(held: Iterable[Resident], for_s: float, pinned: frozenset[ReleaseId]) -> list[Resident]:
    """Return who could do without its memory: nobody waits for it, or has been answered lately."""
    before_s = time.monotonic() - for_s
    return [
        each
        for each in held
        if not each.is_busy and each.used_s <= before_s and each.slot.release_id not in pinned and not each.waiting
    ]


def _file_sizes(slot: SlotSpec) -> list[int]:
    folder = Path(slot.folder)
    paths = [folder / "model.tflite", *(folder / "components" / f"{each.name}.tflite" for each in slot.components)]
    sizes: list[int] = []
    for path in paths:
        # A file that is not there has its own error when it is loaded.
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size)
    return sizes


def _interpreter_bytes(file_bytes: int) -> int:
    return int(file_bytes * _PER_FILE_BYTE) + _BASE_BYTES
