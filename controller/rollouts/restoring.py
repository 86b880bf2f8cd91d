"""After a halt: each device's Desired goes back to what it was, under the rollout that had brought it.

assignment                         halt with revert              halt with stop
waiting                            canceled                      canceled
told, not seen                     restored, canceled            restored, canceled
told or at work, not activated     restored, waits for it        restored, waits for it
at work, activated                 restored, waits for it        stays
succeeded, timed out               restored, waits for it        stays
failed, rolled back, rejected      restored (it is back itself)  restored
removed, superseded, canceled      –                             –
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controller.facts import Misfit, SetRelease
from controller.rollouts import store
from controller.rollouts.core.tally import HALTED
from shared.wire import AssignmentStatus, HaltMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import ArtifactChoice, DeviceFacts
    from controller.rollouts.ports import Cohorts, Desires, Releases
    from controller.rollouts.spec import Assignment, RolloutSpec
    from shared.hardware import DeviceHardware
    from shared.ids import DeviceId, ReleaseId, RolloutId

_GONE = frozenset({AssignmentStatus.REMOVED, AssignmentStatus.SUPERSEDED, AssignmentStatus.CANCELED})
_BACK_BY_ITSELF = frozenset({AssignmentStatus.FAILED, AssignmentStatus.ROLLED_BACK, AssignmentStatus.REJECTED})


class Restorer:
    """Composes the intents that undo a rollout."""

    def __init__(self, *, cohorts: Cohorts, releases: Releases, desires: Desires) -> None:
        self._cohorts = cohorts
        self._releases = releases
        self._desires = desires

    async def restore(
        self, uow: UnitOfWork, spec: RolloutSpec, mode: HaltMode, assignments: Sequence[Assignment]
    ) -> list[tuple[Assignment, Assignment]]:
        """Give these devices back what they had, and return each assignment before and after."""
        told = [one for one in assignments if _to_restore(one, mode)]
        ids = [one.device_id for one in told]
        current = await self._desires.current(uow, ids, spec.model)
        facts = await self._cohorts.facts(uow, ids)
        origins = await store.release_origins(uow, ids, spec.model, before=spec.rollout_id)
        undo = _Undo(releases=self._releases, origins=origins)
        intents: list[SetRelease] = []
        for one in told:
            known = facts.get(one.device_id)
            # Something newer than this rollout may have been decided for the device since.
            if known is not None and current.get(one.device_id) == one.release_id:
                intent = await undo.intent(uow, spec, one, known)
                intents += [] if intent is None else [intent]
        refused = await self._desires.set_releases(uow, intents)
        restored = {intent.device_id for intent in intents} - refused.keys()
        return [(one, _after(uow, one, mode, restored=one.device_id in restored)) for one in assignments]


class _Undo:
    """Finds how a device came to what it ran before."""

    def __init__(self, *, releases: Releases, origins: dict[tuple[DeviceId, ReleaseId], RolloutId]) -> None:
        self._releases = releases
        self._origins = origins
        self._specs: dict[RolloutId, RolloutSpec] = {}
        self._choices: dict[tuple[ReleaseId, DeviceHardware], ArtifactChoice | Misfit] = {}

    async def intent(
        self, uow: UnitOfWork, spec: RolloutSpec, one: Assignment, known: DeviceFacts
    ) -> SetRelease | None:
        """Return what undoes the rollout on one device; None when there is nothing to undo or nothing to go back to."""
        previous = one.previous_release_id
        if previous is None:
            return _taken_away(spec, one)
        origin_id = self._origins.get((one.device_id, previous))
        if previous == one.release_id or origin_id is None or known.hardware is None:
            return None
        choice = await self._choice(uow, previous, known.hardware)
        if isinstance(choice, Misfit):
            return None
        origin = await self._spec(uow, origin_id)
        # Under its own rollout: under the halted one the device would revert it as well.
        return SetRelease(
            device_id=one.device_id,
            model=one.model,
            release_id=previous,
            rollout_id=origin_id,
            attempt=one.attempt,
            choice=choice,
            policy=origin.request.policy,
            override_blacklist=origin.request.override_blacklist,
        )

    async def _choice(
        self, uow: UnitOfWork, release_id: ReleaseId, hardware: DeviceHardware
    ) -> ArtifactChoice | Misfit:
        place = (release_id, hardware)
        if place not in self._choices:
            self._choices[place] = await self._releases.fit(uow, release_id, hardware)
        return self._choices[place]

    async def _spec(self, uow: UnitOfWork, rollout_id: RolloutId) -> RolloutSpec:
        if rollout_id not in self._specs:
            self._specs[rollout_id] = (await store.load_rollout(uow, rollout_id)).spec
        return self._specs[rollout_id]


def _to_restore(one: Assignment, mode: HaltMode) -> bool:
    if one.opened_at is None or one.status in _GONE:
        return False
    # `stop` leaves the release where it runs already, and takes it from those that might still start it.
    kept = one.activated or one.status in {AssignmentStatus.SUCCEEDED, AssignmentStatus.TIMED_OUT}
    return mode is HaltMode.REVERT or one.status in _BACK_BY_ITSELF or not kept


def _after(uow: UnitOfWork, one: Assignment, mode: HaltMode, *, restored: bool) -> Assignment:
    now = uow.clock.now()
    if one.opened_at is None and one.status is AssignmentStatus.QUEUED:
        return replace(one, status=AssignmentStatus.CANCELED, reason=HALTED, changed_at=now, due_at=None)
    if not _to_restore(one, mode) or one.status in _BACK_BY_ITSELF:
        return replace(one, due_at=None)
    if one.status is AssignmentStatus.QUEUED and one.unreachable:
        reason = f"{HALTED}: not seen; it finds the former release when it returns"
        return replace(one, status=AssignmentStatus.CANCELED, reason=reason, changed_at=now, due_at=None)
    return replace(one, going_back=restored, due_at=None)


def _taken_away(spec: RolloutSpec, one: Assignment) -> SetRelease:
    return SetRelease(
        device_id=one.device_id,
        model=one.model,
        release_id=None,
        rollout_id=spec.rollout_id,
        attempt=one.attempt,
        choice=None,
        policy=spec.request.policy,
    )
