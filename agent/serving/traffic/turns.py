"""How long a candidate that answers may take where stable stands at its side, and when that speaks against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.serving.models.workers import QUEUE_LENGTH

if TYPE_CHECKING:
    from agent.serving.exchange import Ask, LiveLine
    from agent.serving.models.resident import Resident

REQUEST_DEADLINE_S: Final = 30.0
"""After this long a caller is told to try again; a model that takes longer is hung, or far too large for the device."""

RESCUE_DEADLINE_S: Final = 5.0
"""A candidate that answers, with stable at its side, gets only this long, so that its callers still get an answer in
time; or ten times what stable takes, if that is longer."""

LEAST_S: Final = 0.25
"""A candidate is never cut off before: a device that is busy elsewhere stalls for about as long."""

LEAST_RUNS: Final = QUEUE_LENGTH + 2
"""Nor before stable could have answered so many requests like this one: a full queue, one that runs, and this one.
Whoever sets absurd deadlines must not be able to make a good candidate look bad."""

PATIENCE: Final = 10
"""It is to blame only when stable could have done all that waited before the request so many times over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a release gets of a request's time."""

    within_s: float
    is_evidence: bool = True
    """Whether no answer by then is a failure; or else it may have waited its turn behind others, or to be loaded."""


ALONE: Final = Turn(within_s=REQUEST_DEADLINE_S)
"""Of a release that nobody can stand in for."""


def turn_beside(stable: Resident, candidate: Resident, *, ask: Ask, line: LiveLine, now_s: float) -> Turn:
    """Return the turn of a candidate that `stable` can stand in for.

    Where its caller has set a deadline it gets half of what is left, so that stable has as much; unless that is too
    little for a good candidate, which then has all of it, and nothing is counted when it is over.
    """
    stable_s, own_s = stable.probe_ms / 1000, ask.caller.deadline_s
    usual = Turn(within_s=min(REQUEST_DEADLINE_S, max(RESCUE_DEADLINE_S, PATIENCE * stable_s)))
    if own_s is None:
        return usual
    half_s = (own_s - now_s) / 2
    # A candidate that the operator allows to be slower still gets as much longer.
    one_s = ask.request.rows * stable_s * max(LEAST_RUNS, line.max_latency_ratio)
    if half_s >= usual.within_s or half_s < max(LEAST_S, one_s):
        return usual
    if candidate.instance is None:
        return Turn(within_s=half_s, is_evidence=False)
    all_s = stable_s * (candidate.instance.rows_due + ask.request.rows)
    return Turn(within_s=half_s, is_evidence=half_s >= PATIENCE * all_s)
