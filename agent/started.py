"""What a start finds on the disk: releases that verify or do not, and the boot file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.core.events import Started
from agent.core.plan import BootFile
from agent.core.recovery import slot_from_boot
from agent.core.retention import kept
from agent.core.state import Phase, component_digests
from agent.delivery.slots import MANIFEST
from shared import manifest as manifests
from shared.decoding import MALFORMED
from shared.errors import InvalidIdError, UntrustedError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from agent.core.state import AgentState, Settings, Slot
    from agent.delivery.slots import Slots
    from shared.ids import ReleaseId

_log = structlog.get_logger(__name__)


def look_around(
    state: AgentState, slots: Slots, boot_path: Path, *, at: datetime, settings: Settings, journal_problem: str
) -> Started:
    """Verify every release that a slot needs, sweep what a cut left behind, and tell what was found. Blocks."""
    boot = _read_boot(boot_path)
    swept = slots.sweep(kept(state))
    if swept:
        _log.info("leftovers_removed", names=swept)
    return Started(
        at=at,
        settings=settings,
        damage=_damage(state, slots),
        on_disk=slots.list(),
        recovered=() if state.models or boot is None else _recovered(boot, slots),
        recovered_traffic=() if state.models or boot is None else boot.fallback.traffic,
        boot_serial=boot.plan.serial if boot is not None else 0,
        journal_problem=journal_problem,
    )


def _damage(state: AgentState, slots: Slots) -> dict[ReleaseId, str]:
    """Hash the files of every slot that may be loaded; a download under way is judged when it is finished."""
    damage: dict[ReleaseId, str] = {}
    for model in state.models:
        candidate = model.candidate if model.phase is not Phase.DOWNLOADING else None
        for slot in (model.stable, model.previous, candidate):
            if slot is None:
                continue
            release = slot.release
            problem = slots.verify(
                release.release_id, release.manifest.sha256, release.artifact.sha256, component_digests(release)
            )
            if problem:
                _log.warning("release_damaged", model=model.model, release_id=release.release_id, problem=problem)
                damage[release.release_id] = problem
    return damage


def _recovered(boot: BootFile, slots: Slots) -> tuple[Slot, ...]:
    """Return what boot.json falls back to, as far as its files verify."""
    found = (_recovered_slot(spec, slots) for spec in boot.fallback.slots)
    return tuple(slot for slot in found if slot is not None)


def _recovered_slot(spec: SlotSpec, slots: Slots) -> Slot | None:
    try:
        problem = slots.verify(
            spec.release_id,
            spec.manifest_sha256,
            spec.artifact_sha256,
            {each.name: each.artifact_sha256 for each in spec.components},
        )
        if problem:
            _log.warning("release_not_recovered", release_id=spec.release_id, problem=problem)
            return None
        data = (slots.path(spec.release_id) / MANIFEST).read_bytes()
        return slot_from_boot(spec, manifests.decode(data), manifest_length_bytes=len(data))
    except (InvalidIdError, UntrustedError) as exc:
        # A boot file may rot in such a way that it still reads as one.
        _log.warning("release_not_recovered", release_id=spec.release_id, problem=str(exc))
        return None


def _read_boot(path: Path) -> BootFile | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=BootFile)
    except FileNotFoundError:
        return None
    except (OSError, *MALFORMED) as exc:
        _log.warning("boot_file_unreadable", path=str(path), error=str(exc))
        return None
