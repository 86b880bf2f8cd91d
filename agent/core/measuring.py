"""Measuring artifacts that are no releases, while the device is at rest; each is one `state.Measurement`.

    waiting   it is its turn, no model moves, the Pulse is fresh        running   (MeasureArtifact)
    running   a rollout comes                                           waiting   (PauseMeasurement; not counted)
    running   the artifact cannot be fetched: link, server, disk        waiting   backing off, until Desired gives it up
    running   what comes is not what the repository vouches for         waiting   four times, then ended with the reason
    running   the child measured, was refused, crashed, hung            ended     with figures or a reason
    running   control starts again                                      waiting   `boot_tries` times, then ended
    any       Desired does not list it any more                         forgotten (ForgetMeasurement)

Nothing of this touches a model, a slot or the plan: a measurement can fail, and that is all that it can do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.core.commands import ForgetMeasurement, MeasureArtifact, PauseMeasurement
from agent.core.events import FetchProblem, MeasurementDelayed, MeasurementFinished
from agent.core.lifecycle import GIVE_UP_AFTER, backoff_s
from agent.core.state import Measurement, Phase, after, due, is_settled
from shared.wire import MeasurementReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.core.commands import Draft
    from agent.core.state import AgentState
    from shared.ids import MeasurementId
    from shared.wire import DesiredBody, Figures

MAX_LISTED = 8
"""Of one Desired; a controller lists half as many, and what goes beyond is not taken up."""
_REASON_CHARACTERS = 300


def follow(draft: Draft, body: DesiredBody) -> None:
    """Take up what a newer Desired lists, and forget what it does not."""
    listed = () if body.measurements is msgspec.UNSET else body.measurements[:MAX_LISTED]
    known = {measurement.wanted: measurement for measurement in draft.state.measurements}
    kept = tuple(known.get(wanted) or Measurement(wanted=wanted) for wanted in dict.fromkeys(listed))
    for measurement in draft.state.measurements:
        if measurement not in kept:
            draft.do(ForgetMeasurement(measurement_id=measurement.wanted.measurement_id))
    if kept != draft.state.measurements:
        draft.state = replace(draft.state, measurements=kept)


def resume(draft: Draft) -> None:
    """Count what ran when control ended: it may have been what ended it."""
    for measurement in draft.state.measurements:
        if measurement.running:
            _change(draft, measurement.wanted.measurement_id, lambda running: _interrupted(draft, running))


def take(draft: Draft, event: MeasurementFinished | MeasurementDelayed) -> None:
    """Take in how a measurement went; one that nobody waits for any more changes nothing."""
    match event:
        case MeasurementFinished(result=result):
            _change(draft, event.measurement_id, lambda one: _end(draft, one, result.figures, result.reason))
        case MeasurementDelayed():
            _change(draft, event.measurement_id, lambda one: _delayed(draft, one, event))


def settle(draft: Draft) -> None:
    """Pause what runs when a rollout comes, and begin what waits while the device is at rest."""
    state = draft.state
    running = next((one for one in state.measurements if one.running), None)
    at_rest = _is_at_rest(state)
    if running is not None and not at_rest:
        draft.do(PauseMeasurement(measurement_id=running.wanted.measurement_id))
        _say(draft, running, "paused")
        _put(draft, replace(running, running=False))
    # Under a stale Pulse nothing new begins, as nothing new is activated.
    if running is None and at_rest and not state.stale:
        waiting = next((one for one in state.measurements if one.ended is None and due(draft.at, one.retry_at)), None)
        if waiting is not None:
            _begin(draft, waiting)


def _begin(draft: Draft, waiting: Measurement) -> None:
    settings = draft.state.settings
    draft.do(
        MeasureArtifact(
            wanted=waiting.wanted,
            max_memory_bytes=settings.trial_memory_bytes,
            deadline_s=settings.trial_deadline_s,
        )
    )
    _say(draft, waiting, "begun")
    _put(draft, replace(waiting, running=True, retry_at=None))


def _is_at_rest(state: AgentState) -> bool:
    return state.desired is not None and all(
        model.phase is Phase.IDLE and is_settled(state, model) for model in state.models
    )


def _interrupted(draft: Draft, running: Measurement) -> Measurement:
    interruptions = running.interruptions + 1
    counted = replace(running, running=False, interruptions=interruptions)
    if interruptions < draft.state.settings.boot_tries:
        return counted
    return _end(draft, counted, None, f"interrupted: the agent ended during each of {interruptions} tries")


def _delayed(draft: Draft, measurement: Measurement, event: MeasurementDelayed) -> Measurement:
    refused = event.problem is not FetchProblem.DELAYED
    refusals = measurement.refusals + refused
    if refusals >= GIVE_UP_AFTER:
        return _end(draft, measurement, None, event.reason)
    _say(draft, measurement, f"delayed ({event.reason})")
    return replace(
        measurement,
        running=False,
        refusals=refusals,
        failures=measurement.failures + 1,
        retry_at=after(draft.at, backoff_s(measurement.failures)),
    )


def _end(draft: Draft, measurement: Measurement, figures: Figures | None, reason: str) -> Measurement:
    _say(draft, measurement, f"failed ({reason})" if figures is None else "done")
    hardware = draft.state.settings.hardware
    ended = MeasurementReport(
        measurement_id=measurement.wanted.measurement_id,
        sha256=measurement.wanted.artifact.sha256,
        runtime=hardware.runtime,
        runtime_version=hardware.runtime_version,
        ended_at=draft.at,
        figures=figures,
        # A NUL that a library printed would have the whole report refused.
        reason="" if figures is not None else (reason or "failed").replace("\0", "")[:_REASON_CHARACTERS],
    )
    return replace(measurement, running=False, ended=ended)


def _change(draft: Draft, measurement_id: MeasurementId, change: Callable[[Measurement], Measurement]) -> None:
    for measurement in draft.state.measurements:
        # What came just after a pause counts as well; what ended once has ended.
        if measurement.wanted.measurement_id == measurement_id and measurement.ended is None:
            _put(draft, change(measurement))
            return


def _put(draft: Draft, changed: Measurement) -> None:
    measurements = tuple(changed if one.wanted == changed.wanted else one for one in draft.state.measurements)
    draft.state = replace(draft.state, measurements=measurements)


def _say(draft: Draft, measurement: Measurement, what: str) -> None:
    draft.say(f"measurement {measurement.wanted.measurement_id}: {what}")
