"""What must hold whatever happens: of each step, of one rollout's counters, of the world and of each device.

`check_step` looks at what changed and runs in production; `check_all` recounts everything, `check_device_step` and
`check_ends` look at devices: they run in simulations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from controller.rollouts.core.gates.failures import raised_peak
from controller.rollouts.core.planner import in_flight_cap
from controller.rollouts.core.tally import AssignmentFacts, Outcome, Tally, recount
from controller.rollouts.core.types import (
    LIVE,
    OPEN_WAVE,
    ROLLOUT_EDGES,
    WAVE_EDGES,
    Decision,
    FindMembers,
    OpenBucketRange,
    RolloutState,
    WaveState,
    WaveStatus,
)
from shared.wire import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shared.ids import DeviceId, ModelName, ReleaseId, RolloutId

_OUTCOMES = tuple(kind.value for kind in Outcome)


class InvariantError(AssertionError):
    """The planner would do what it must never do: nothing of the step may be stored."""

    def __init__(self, broken: Sequence[str]) -> None:
        super().__init__("; ".join(broken))
        self.broken = tuple(broken)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentFact:
    """One assignment in the view of the world."""

    device: DeviceId
    wave: int
    facts: AssignmentFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutWorld:
    """One rollout with all its assignments."""

    model: ModelName
    state: RolloutState
    assignments: tuple[AssignmentFact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFact:
    """One device at one moment, as the simulation sees into it."""

    device: DeviceId
    order: tuple[int, int]
    """(epoch, generation) of the Desired that it follows."""
    held: frozenset[ReleaseId]
    """Releases that serving is told to hold."""
    verified: frozenset[ReleaseId]
    """Releases whose files on this device are what the repository vouches for."""
    activated: frozenset[tuple[RolloutId, int]]
    """Rollout and attempt of the candidates that are loaded."""
    pulse_age_s: float | None
    """Age of the newest Pulse; None without one."""
    pulse_max_age_s: float
    halted: frozenset[RolloutId]
    """Rollouts that its Pulse names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEnd:
    """One device when everything has come to rest."""

    device: DeviceId
    desired: ReleaseId | None
    running: ReleaseId | None
    named: str
    """Why it does not run what is desired, where a rollout says so."""


def check_step(before: RolloutState, decision: Decision) -> None:
    """Check what one decision changes. Raises InvariantError."""
    after = decision.state
    broken = [*_edges(before, after), *_waves(after), *_closed_waves(before, after), *_opening(after, decision)]
    if after.guard_peak < before.guard_peak:
        broken.append("the guard forgot evidence")
    if before.closing is not None and after.closing is None:
        broken.append("a halt was taken back")
    if broken:
        raise InvariantError(broken)


def check_all(worlds: Iterable[RolloutWorld]) -> None:
    """Check all rollouts of an installation from scratch. Raises InvariantError."""
    every = tuple(worlds)
    broken = [line for world in every for line in _recounted(world)]
    broken += _shared_devices(every)
    if broken:
        raise InvariantError(broken)


def check_device_step(before: DeviceFact, after: DeviceFact) -> None:
    """Check what changed on a device. Raises InvariantError."""
    broken: list[str] = []
    if after.order < before.order:
        broken.append(f"device {after.device} fell from {before.order} to {after.order}")
    unverified = after.held - after.verified
    if unverified:
        broken.append(f"device {after.device} holds unverified {sorted(unverified)}")
    begun = after.activated - before.activated
    if begun and (after.pulse_age_s is None or after.pulse_age_s > after.pulse_max_age_s):
        broken.append(f"device {after.device} activated {sorted(begun)} under a Pulse of age {after.pulse_age_s}")
    forbidden = {rollout for rollout, _ in begun} & after.halted
    if forbidden:
        broken.append(f"device {after.device} activated {sorted(forbidden)} although its Pulse halts it")
    if broken:
        raise InvariantError(broken)


def check_ends(ends: Iterable[DeviceEnd]) -> None:
    """Check that each device runs what is desired of it or is named with a reason. Raises InvariantError."""
    broken = [
        f"device {one.device} runs {one.running}, desired is {one.desired}, and nothing says why"
        for one in ends
        if one.running != one.desired and not one.named
    ]
    if broken:
        raise InvariantError(broken)


def _edges(before: RolloutState, after: RolloutState) -> Iterator[str]:
    if after.status is not before.status and after.status not in ROLLOUT_EDGES[before.status]:
        yield f"rollout {before.status} became {after.status}"
    for old, new in zip(before.waves, after.waves, strict=True):
        if new.status is not old.status and new.status not in WAVE_EDGES[old.status]:
            yield f"wave {old.number} {old.status} became {new.status}"
        if old.complete and not new.complete:
            yield f"wave {old.number} lost its membership"
        if old.complete and new.tally.members != old.tally.members:
            yield f"wave {old.number} changed its members after they were all found"


def _waves(after: RolloutState) -> Iterator[str]:
    open_waves = [wave.number for wave in after.waves if wave.status in OPEN_WAVE]
    if len(open_waves) > 1:
        yield f"waves {open_waves} are open together"
    for wave, following in zip(after.waves, after.waves[1:], strict=False):
        if wave.spec.hi != following.spec.lo:
            yield f"waves {wave.number} and {following.number} do not meet"
        started = following.status not in {WaveStatus.PENDING, WaveStatus.CANCELED}
        if started and wave.status is not WaveStatus.SUCCEEDED:
            yield f"wave {following.number} is {following.status} while wave {wave.number} is {wave.status}"
    for wave in after.waves:
        yield from _counters(wave)


def _counters(wave: WaveState) -> Iterator[str]:
    tally = wave.tally
    if any(getattr(tally, one.name) < 0 for one in fields(tally)):
        yield f"wave {wave.number} counts below zero: {tally}"
    if sum(getattr(tally, name) for name in _OUTCOMES) != tally.members:
        yield f"wave {wave.number} has outcomes that do not add up to its members: {tally}"
    if not wave.is_last and tally.members > wave.spec.size:
        yield f"wave {wave.number} has {tally.members} members, {wave.spec.size} planned"
    if tally.opened > tally.members:
        yield f"wave {wave.number} told {tally.opened} of {tally.members} devices"
    if wave.requested > tally.waiting:
        yield f"wave {wave.number} asked for {wave.requested} devices, {tally.waiting} wait"


def _closed_waves(before: RolloutState, after: RolloutState) -> Iterator[str]:
    for old, new in zip(before.waves, after.waves, strict=True):
        ended = old.status not in OPEN_WAVE and old.status is not WaveStatus.PENDING
        if ended and new.verdict is not old.verdict:
            yield f"the verdict on closed wave {old.number} changed from {old.verdict} to {new.verdict}"


def _opening(after: RolloutState, decision: Decision) -> Iterator[str]:
    openings = [one for one in decision.commands if isinstance(one, OpenBucketRange)]
    searches = [one for one in decision.commands if isinstance(one, FindMembers)]
    if (openings or searches) and after.status not in LIVE:
        yield f"a rollout that is {after.status} opens devices"
    current = after.current
    for number in [*(one.wave for one in openings), *(one.wave for one in searches)]:
        if current is None or current.number != number:
            yield f"wave {number} is not open, and is told to open devices"
    if openings:
        flying = sum(wave.in_flight for wave in after.waves)
        if flying > in_flight_cap(after):
            yield f"{flying} devices in flight, {in_flight_cap(after)} allowed"


def _recounted(world: RolloutWorld) -> Iterator[str]:
    state = world.state
    for wave in state.waves:
        fresh = recount(one.facts for one in world.assignments if one.wave == wave.number)
        if fresh != wave.tally:
            yield f"rollout {state.rollout_id} wave {wave.number} counts {_difference(wave.tally, fresh)}"
    yield from _waves(state)
    if state.guard_peak < raised_peak(0.0, state.total):
        yield f"rollout {state.rollout_id}: the guard missed evidence"
    seen = Counter(one.device for one in world.assignments)
    yield from (f"device {device} is in two waves of {state.rollout_id}" for device, n in seen.items() if n > 1)


def _shared_devices(worlds: tuple[RolloutWorld, ...]) -> list[str]:
    holders: dict[tuple[ModelName, DeviceId], str] = {}
    broken: list[str] = []
    for world in worlds:
        for one in world.assignments:
            if one.facts.status in TERMINAL:
                continue
            place = (world.model, one.device)
            other = holders.setdefault(place, world.state.rollout_id)
            if other != world.state.rollout_id:
                broken.append(f"device {one.device} is open in rollouts {other} and {world.state.rollout_id}")
    return broken


def _difference(counted: Tally, fresh: Tally) -> str:
    pairs = ((one.name, getattr(counted, one.name), getattr(fresh, one.name)) for one in fields(counted))
    return ", ".join(f"{name}: {was}, really {now}" for name, was, now in pairs if was != now)
