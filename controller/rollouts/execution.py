"""Carries out what rollouts asked for, one page of devices in one transaction; what is left goes back on the outbox."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

import msgspec

from controller.facts import ArtifactChoice, Misfit, SetRelease
from controller.rollouts import store
from controller.rollouts.core.tally import (
    AGENT_TOO_OLD,
    DESIRED_TOO_LARGE,
    IN_OTHER_ROLLOUT,
    NO_FITTING_ARTIFACT,
    NOT_ENROLLED,
    SUPERSEDED,
)
from controller.rollouts.core.types import (
    ENDED,
    LIVE,
    OPEN_WAVE,
    AssignmentsChanged,
    MembersFound,
    RolloutStatus,
    Swept,
)
from controller.rollouts.core.waves import bucket_of
from controller.rollouts.evidence import change_of
from controller.rollouts.restoring import Restorer
from controller.rollouts.spec import AssignedFacts, Assignment
from controller.rollouts.work import WORK, FindWork, OpenWork, SweepWork, Work
from shared.wire import TERMINAL, TRAFFIC, AssignmentStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DeviceFacts
    from controller.rollouts.door import Door
    from controller.rollouts.ports import Cohorts, Desires, Releases
    from controller.rollouts.spec import RolloutSpec
    from controller.rollouts.store import Stored
    from shared.hardware import DeviceHardware
    from shared.ids import DeviceId, ReleaseId

PAGE = 500
"""Most devices in one transaction: keeps the database's one writer busy for a fraction of a second."""


class Execution:
    """Materialises the core's commands."""

    def __init__(self, *, door: Door, cohorts: Cohorts, releases: Releases, desires: Desires) -> None:
        self._door = door
        self._cohorts = cohorts
        self._releases = releases
        self._desires = desires
        self._restorer = Restorer(cohorts=cohorts, releases=releases, desires=desires)

    async def carry_out(self, uow: UnitOfWork, work: Work, *, page: int = PAGE) -> int:
        """Do one page of a piece of work, and leave the rest for later; return how many devices were touched."""
        stored = await store.load_rollout(uow, work.rollout_id)
        match work:
            case FindWork():
                return await self._find(uow, stored, work, page)
            case OpenWork():
                return await self._open(uow, stored, work, page)
            case SweepWork():
                return await self._sweep(uow, stored, work, page)
            case _:
                assert_never(work)

    # --- finding members

    async def _find(self, uow: UnitOfWork, stored: Stored, work: FindWork, page: int) -> int:
        if stored.state.waves[work.wave - 1].status not in OPEN_WAVE:
            return 0  # halted meanwhile: nobody is assigned any more
        spec = stored.spec
        found = await self._cohorts.iterate(uow, spec.request.cohort, work.after, page)
        taken = await store.assigned_devices(uow, spec.rollout_id, [one.device_id for one in found])
        mine = [
            one
            for one in found
            if one.hardware is not None
            and one.device_id not in taken
            and work.lo <= bucket_of(spec.salt, one.device_id) < work.hi
        ][: work.limit]
        members = await self._without_rivals(uow, spec, [_assigned(uow, spec, work.wave, one) for one in mine])
        await store.insert_assignments(uow, members)
        changes = tuple(change for one in members if (change := change_of(None, one, spec)) is not None)
        # A wave never exceeds its size, though labels and enrolments changed since it was planned.
        left = None if work.limit is None else work.limit - len(members)
        done = len(found) < page or left == 0
        now = uow.clock.now()
        counted = AssignmentsChanged(at=now, changes=changes)
        ends = [MembersFound(at=now, wave=work.wave)] if done else []
        await self._door.apply(uow, spec.rollout_id, [counted, *ends])
        if not done:
            uow.emit(WORK, msgspec.structs.replace(work, after=found[-1].device_id, limit=left))
        return len(members)

    async def _without_rivals(self, uow: UnitOfWork, spec: RolloutSpec, members: list[Assignment]) -> list[Assignment]:
        """Free devices from rollouts that have ended; reject those that another running one has open."""
        others = await store.open_assignments(uow, [one.device_id for one in members], spec.model)
        busy: dict[DeviceId, str] = {}
        for other in others:
            rival = await store.load_rollout(uow, other.rollout_id)
            if rival.state.status not in ENDED:
                busy[other.device_id] = other.rollout_id
                continue
            status = other.status if other.status in TERMINAL else AssignmentStatus.SUPERSEDED
            reason = f"{SUPERSEDED}: by rollout {spec.rollout_id}"
            freed = replace(other, status=status, reason=reason, going_back=False, due_at=None)
            await self._moved(uow, rival.spec, [(other, freed)])
        return [
            replace(one, status=AssignmentStatus.REJECTED, reason=f"{IN_OTHER_ROLLOUT}: {busy[one.device_id]}")
            if one.device_id in busy
            else one
            for one in members
        ]

    # --- telling devices

    async def _open(self, uow: UnitOfWork, stored: Stored, work: OpenWork, page: int) -> int:
        spec, state = stored.spec, stored.state
        if state.status not in LIVE or state.waves[work.wave - 1].status not in OPEN_WAVE:
            return 0
        if state.status is RolloutStatus.PAUSED:
            # Handed back unopened: a resume asks anew.
            handed_back = AssignmentsChanged(at=uow.clock.now(), changes=(), opened=work.limit)
            await self._door.apply(uow, spec.rollout_id, [handed_back])
            return 0
        limit = min(work.limit, page)
        waiting = await store.waiting_assignments(
            uow, spec.rollout_id, wave=work.wave, lo=work.lo, hi=work.hi, limit=limit
        )
        pairs = await self._told(uow, spec, waiting)
        left = work.limit - len(waiting) if len(waiting) == limit else 0
        await self._moved(uow, spec, pairs, opened=work.limit - left)
        if left > 0:
            uow.emit(WORK, msgspec.structs.replace(work, limit=left))
        return len(waiting)

    async def _told(
        self, uow: UnitOfWork, spec: RolloutSpec, waiting: Sequence[Assignment]
    ) -> list[tuple[Assignment, Assignment]]:
        ids = [one.device_id for one in waiting]
        facts = await self._cohorts.facts(uow, ids)
        current = await self._desires.current(uow, ids, spec.model)
        old = await self._cohorts.not_understanding(uow, ids, TRAFFIC)
        choices: dict[DeviceHardware, ArtifactChoice | Misfit] = {}
        intents: list[SetRelease] = []
        pairs: list[tuple[Assignment, Assignment]] = []
        for one in waiting:
            known = facts.get(one.device_id)
            refused = _refusal(uow, one, known)
            if known is None or known.hardware is None or refused is not None:
                pairs.append((one, refused or one))
                continue
            # A fleet has few kinds of hardware: one look at the release for each, not for each device.
            if known.hardware not in choices:
                choices[known.hardware] = await self._releases.fit(uow, one.release_id, known.hardware)
            choice = choices[known.hardware]
            if isinstance(choice, Misfit):
                pairs.append(
                    (one, _ended(uow, one, AssignmentStatus.REJECTED, f"{NO_FITTING_ARTIFACT}: {choice.reason}"))
                )
                continue
            intent = _intent(spec, one, choice)
            if one.device_id in old and (news := _news(intent)):
                pairs.append((one, _ended(uow, one, AssignmentStatus.REJECTED, f"{AGENT_TOO_OLD}: {news}")))
                continue
            intents.append(intent)
            pairs.append((one, _opened(uow, spec, one, known, current.get(one.device_id))))
        unsent = await self._desires.set_releases(uow, intents)
        return [(one, _unsent(uow, one, unsent) or after) for one, after in pairs]

    # --- after a halt

    async def _sweep(self, uow: UnitOfWork, stored: Stored, work: SweepWork, page: int) -> int:
        spec = stored.spec
        assignments = await store.assignments_page(uow, spec.rollout_id, work.after, page)
        pairs = await self._restorer.restore(uow, spec, work.mode, assignments)
        await self._moved(uow, spec, pairs)
        # A full page: there may be more. The cursor goes back on the outbox in this same transaction.
        if len(assignments) == page:
            uow.emit(WORK, msgspec.structs.replace(work, after=assignments[-1].device_id))
        else:
            await self._door.apply(uow, spec.rollout_id, [Swept(at=uow.clock.now())])
        return len(assignments)

    async def _moved(
        self,
        uow: UnitOfWork,
        spec: RolloutSpec,
        pairs: Sequence[tuple[Assignment, Assignment]],
        *,
        opened: int = 0,
    ) -> None:
        await store.update_assignments(uow, [after for before, after in pairs if after != before])
        changes = tuple(change for before, after in pairs if (change := change_of(before, after, spec)) is not None)
        event = AssignmentsChanged(at=uow.clock.now(), changes=changes, opened=opened)
        await self._door.apply(uow, spec.rollout_id, [event])


def _assigned(uow: UnitOfWork, spec: RolloutSpec, wave: int, facts: DeviceFacts) -> Assignment:
    architecture = facts.hardware.architecture if facts.hardware is not None else ""
    return Assignment(
        rollout_id=spec.rollout_id,
        device_id=facts.device_id,
        model=spec.model,
        release_id=spec.request.release_id,
        wave=wave,
        bucket=bucket_of(spec.salt, facts.device_id),
        # Frozen from here on: a label that changes later moves nobody out of the wave.
        facts=AssignedFacts(site=facts.site, labels=facts.labels, architecture=architecture),
        changed_at=uow.clock.now(),
    )


def _unsent(uow: UnitOfWork, one: Assignment, refused: Mapping[DeviceId, str]) -> Assignment | None:
    if one.device_id not in refused:
        return None
    return _ended(uow, one, AssignmentStatus.REJECTED, f"{DESIRED_TOO_LARGE}: {refused[one.device_id]}")


def _refusal(uow: UnitOfWork, one: Assignment, known: DeviceFacts | None) -> Assignment | None:
    if known is None:
        return _ended(uow, one, AssignmentStatus.REMOVED, "removed")
    if known.hardware is None:
        return _ended(uow, one, AssignmentStatus.REJECTED, NOT_ENROLLED)
    return None


def _ended(uow: UnitOfWork, one: Assignment, status: AssignmentStatus, reason: str) -> Assignment:
    return replace(one, status=status, reason=reason, changed_at=uow.clock.now(), due_at=None)


def _opened(
    uow: UnitOfWork, spec: RolloutSpec, one: Assignment, known: DeviceFacts, previous: ReleaseId | None
) -> Assignment:
    now = uow.clock.now()
    patience = timedelta(seconds=spec.request.unreachable_after_s)
    # Who has been away for so long already is not waited for again; it still finds its Desired when it returns.
    away = known.last_seen_at is None or now - known.last_seen_at >= patience
    return replace(
        one,
        opened_at=now,
        changed_at=now,
        unreachable=away,
        due_at=None if away else now + patience,
        previous_release_id=previous,
    )


def _news(intent: SetRelease) -> str:
    """Say what of an intent an old agent would skip, and never agree with the controller on its digest; or nothing."""
    words = []
    if intent.policy.canary_share is not msgspec.UNSET:
        words.append("a canary share")
    if intent.choice is not None and intent.choice.components:
        words.append("a release with components")
    return f"it does not understand {' or '.join(words)}; update litefleet on the device" if words else ""


def _intent(spec: RolloutSpec, one: Assignment, choice: ArtifactChoice) -> SetRelease:
    return SetRelease(
        device_id=one.device_id,
        model=one.model,
        release_id=one.release_id,
        rollout_id=one.rollout_id,
        attempt=one.attempt,
        choice=choice,
        policy=spec.request.policy,
        override_blacklist=spec.request.override_blacklist,
    )
