"""From what an operator asks to a plan: who is in the cohort, who else wants it, which wave each device falls into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.rollouts import store
from controller.rollouts.core.waves import bucket_of, cut_waves, parse_sizes
from shared.errors import ConflictError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DeviceFacts, ReleaseFacts
    from controller.rollouts.core.types import WaveSpec
    from controller.rollouts.ports import Cohorts, Releases
    from controller.rollouts.spec import RolloutRequest
    from shared.ids import DeviceId, ModelName

PAGE = 500
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWave:
    """One wave and who would be in it, in the order of telling them."""

    spec: WaveSpec
    devices: tuple[DeviceId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would happen."""

    request: RolloutRequest
    model: ModelName
    salt: str
    waves: tuple[PlannedWave, ...]
    not_enrolled: int
    """Devices of the cohort that have not enrolled: a wave that starts later takes those that have by then."""

    @property
    def devices(self) -> int:
        """Size of the cohort."""
        return sum(len(wave.devices) for wave in self.waves)


async def iterate_cohort(uow: UnitOfWork, cohorts: Cohorts, query: str) -> AsyncIterator[DeviceFacts]:
    """Walk a cohort page by page."""
    after: DeviceId | None = None
    while True:
        page = await cohorts.iterate(uow, query, after, PAGE)
        for facts in page:
            yield facts
        if len(page) < PAGE:
            return
        after = page[-1].device_id


async def make_plan(uow: UnitOfWork, request: RolloutRequest, *, cohorts: Cohorts, releases: Releases) -> Plan:
    """Plan a rollout without starting it.

    Raises:
        NotFoundError: no such release.
        InvalidInputError: a size, time or query that cannot be meant, or an empty cohort.
        ConflictError: another rollout of the model has the same devices, or a rollout took this release back.
    """
    sizes = parse_sizes(request.waves)
    _check_times(request)
    release = await releases.facts(uow, request.release_id)
    await _check_history(uow, request)
    await cohorts.check(uow, request.cohort)
    # Known before the rollout has an id, so that what a dry run shows is what then happens.
    salt = f"{release.model}/{release.release_id}"
    order: list[tuple[int, DeviceId]] = []
    not_enrolled = 0
    async for facts in iterate_cohort(uow, cohorts, request.cohort):
        if facts.hardware is None:
            not_enrolled += 1
        else:
            order.append((bucket_of(salt, facts.device_id), facts.device_id))
    order.sort()
    _check_cohort(request, len(order), not_enrolled)
    await _check_rivals(uow, cohorts, release, {device for _, device in order})
    waves = cut_waves(sizes, [bucket for bucket, _ in order])
    return Plan(request=request, model=release.model, salt=salt, waves=_fill(waves, order), not_enrolled=not_enrolled)


def _fill(waves: tuple[WaveSpec, ...], order: list[tuple[int, DeviceId]]) -> tuple[PlannedWave, ...]:
    return tuple(
        PlannedWave(spec=spec, devices=tuple(device for bucket, device in order if spec.lo <= bucket < spec.hi))
        for spec in waves
    )


def _check_times(request: RolloutRequest) -> None:
    positive = {"wave_deadline_s": request.wave_deadline_s, "unreachable_after_s": request.unreachable_after_s}
    for field, value in positive.items():
        if value <= 0:
            raise InvalidInputError(field=field, problem=f"is {value:g}", remedy="give a positive number of seconds")
    if request.soak_s < 0:
        raise InvalidInputError(field="soak_s", problem=f"is {request.soak_s:g}", remedy="0 is no soak at all")
    if request.wave_deadline_s <= request.policy.probation_s:
        raise InvalidInputError(
            field="wave_deadline_s",
            problem=f"{request.wave_deadline_s:g} s is not longer than probation_s, {request.policy.probation_s:g} s",
            remedy="no device could succeed in time; give the wave longer",
        )


async def _check_history(uow: UnitOfWork, request: RolloutRequest) -> None:
    earlier = await store.reverted_by(uow, request.release_id)
    if earlier is not None and not request.override_blacklist:
        raise ConflictError(
            kind="release",
            name=request.release_id,
            problem=f"was taken back by rollout {earlier}; set override_blacklist to try it again all the same",
        )


def _check_cohort(request: RolloutRequest, enrolled: int, not_enrolled: int) -> None:
    if enrolled:
        return
    if not_enrolled:
        problem = f"{request.cohort!r} holds {not_enrolled} devices, none of which has enrolled"
        raise InvalidInputError(field="cohort", problem=problem, remedy="enrol them, then start again")
    raise InvalidInputError(
        field="cohort", problem=f"{request.cohort!r} holds no device", remedy="see `litefleet device ls`"
    )


async def _check_rivals(uow: UnitOfWork, cohorts: Cohorts, release: ReleaseFacts, ours: set[DeviceId]) -> None:
    """Refuse devices that another unfinished rollout of the model has, or will have."""
    for rival in await store.unfinished(uow, release.model):
        # Whom it has already, wherever their labels have moved since, and whom its later waves will find.
        theirs = await store.assigned_devices(uow, rival.spec.rollout_id, sorted(ours))
        async for facts in iterate_cohort(uow, cohorts, rival.spec.request.cohort):
            theirs.add(facts.device_id)
        both = sorted(ours & theirs)
        if both:
            more = f" and {len(both) - _NAMED} more" if len(both) > _NAMED else ""
            raise ConflictError(
                kind="rollout",
                name=rival.spec.rollout_id,
                problem=f"is bringing {release.model} to the same devices: {', '.join(both[:_NAMED])}{more}; "
                "wait for its end or abort it",
            )
