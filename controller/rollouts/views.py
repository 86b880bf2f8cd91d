"""What the API shows of rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - pydantic reads these annotations
from typing import TYPE_CHECKING

from controller.rollouts.core.gates.availability import gate_notes
from controller.rollouts.core.types import WaveState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.rollouts.planning import Plan
    from controller.rollouts.spec import Assignment
    from controller.rollouts.store import Stored
    from controller.rollouts.tables import DecisionRow

_SHOWN = 200
"""Device ids shown of each planned wave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateView:
    """Whether a gate can decide in a wave, and why."""

    gate: str
    can_decide: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveView:
    """One wave: planned, and how far it is. The counts of outcomes add up to `assigned`."""

    index: int
    size: str
    devices: int
    state: str
    verdict: str
    assigned: int
    activated: int
    waiting: int
    queued: int
    in_progress: int
    undecided: int
    succeeded: int
    failed: int
    excused: int
    unreachable: int
    gates: list[GateView]
    device_ids: list[str]
    """Who would be in it, the first 200; only in a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """A rollout that was not started."""

    release_id: str
    model: str
    cohort: str
    devices: int
    not_enrolled: int
    waves: list[WaveView]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """How a rollout stands, and why it is not further."""

    rollout_id: str
    release_id: str
    model: str
    cohort: str
    state: str
    paused_for: str
    """`operator`, `inconclusive`, `insufficient_data`; empty while it is not paused."""
    reason: str
    explanation: str
    on_failure: str
    soak_s: float
    wave_deadline_s: float
    unreachable_after_s: float
    devices_exposed: int
    """Devices that activated the release, or failed before."""
    devices_returning: int
    """Devices that a halt has told to go back and that have not confirmed."""
    fetched_bytes: int
    """What devices have fetched of its artifacts so far, as deltas or whole."""
    full_bytes: int
    """What the same devices would have fetched without deltas."""
    waves: list[WaveView]
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentView:
    """One device's share of a rollout."""

    device_id: str
    wave: int
    status: str
    phase: str | None
    activated: bool
    unreachable: bool
    going_back: bool
    attempt: int
    reason: str
    previous_release_id: str | None
    pairs: int
    flips: int
    slower: int
    fetched_bytes: int
    full_bytes: int
    site: str
    told_at: datetime | None
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionView:
    """One decision, with its reason and the counts it rests on."""

    at: datetime
    actor: str
    event: str
    state: str
    wave: int | None
    verdict: str | None
    reason: str
    explanation: str
    numbers: dict[str, int]


def plan_view(plan: Plan) -> PlanView:
    """Return a plan as the API shows it."""
    waves = [
        _wave_view(WaveState(number=n, spec=one.spec, is_last=False), plan.request.policy.min_pairs, one.devices)
        for n, one in enumerate(plan.waves, start=1)
    ]
    return PlanView(
        release_id=plan.request.release_id,
        model=plan.model,
        cohort=plan.request.cohort,
        devices=plan.devices,
        not_enrolled=plan.not_enrolled,
        waves=waves,
    )


def rollout_view(stored: Stored) -> RolloutView:
    """Return a rollout as the API shows it."""
    spec, state = stored.spec, stored.state
    request, total = spec.request, state.total
    return RolloutView(
        rollout_id=spec.rollout_id,
        release_id=request.release_id,
        model=spec.model,
        cohort=request.cohort,
        state=state.status,
        paused_for=state.pause or "",
        reason=state.why.code,
        explanation=state.why.sentence,
        on_failure=request.on_failure,
        soak_s=request.soak_s,
        wave_deadline_s=request.wave_deadline_s,
        unreachable_after_s=request.unreachable_after_s,
        devices_exposed=total.exposed,
        devices_returning=total.going_back,
        fetched_bytes=stored.fetched_bytes,
        full_bytes=stored.full_bytes,
        waves=[_wave_view(wave, request.policy.min_pairs, ()) for wave in state.waves],
        created_at=spec.created_at,
        created_by=spec.created_by,
    )


def assignment_view(one: Assignment) -> AssignmentView:
    """Return an assignment as the API shows it."""
    return AssignmentView(
        device_id=one.device_id,
        wave=one.wave,
        status=one.status,
        phase=one.phase,
        activated=one.activated,
        unreachable=one.unreachable,
        going_back=one.going_back,
        attempt=one.attempt,
        reason=one.reason,
        previous_release_id=one.previous_release_id,
        pairs=one.paired.pairs,
        flips=one.paired.flips,
        slower=one.paired.slower,
        fetched_bytes=one.fetched_bytes,
        full_bytes=one.full_bytes,
        site=one.facts.site,
        told_at=one.opened_at,
        changed_at=one.changed_at,
    )


def decision_view(row: DecisionRow) -> DecisionView:
    """Return a decision as the API shows it."""
    return DecisionView(
        at=row.at,
        actor=row.actor,
        event=row.event,
        state=row.status,
        wave=row.wave,
        verdict=row.verdict,
        reason=row.reason,
        explanation=row.sentence,
        numbers=row.numbers,
    )


def _wave_view(wave: WaveState, min_pairs: int, devices: Sequence[str]) -> WaveView:
    tally = wave.tally
    notes = gate_notes(devices=max(wave.devices, 1), min_pairs=min_pairs)
    return WaveView(
        index=wave.number,
        size=wave.spec.expression,
        devices=wave.devices,
        state=wave.status,
        verdict=wave.verdict,
        assigned=tally.members,
        activated=tally.activated,
        waiting=tally.waiting,
        queued=tally.queued,
        in_progress=tally.in_progress,
        undecided=tally.undecided,
        succeeded=tally.succeeded,
        failed=tally.failed,
        excused=tally.unreachable + tally.dismissed,
        unreachable=tally.unreachable,
        gates=[GateView(gate=note.gate, can_decide=note.can_decide, why=note.why) for note in notes],
        device_ids=list(devices[:_SHOWN]),
    )
