"""The whole life of a candidate, as a table: (phase, signal) → edge. Nobody else changes a phase.

    IDLE → DOWNLOADING → TRIAL → STAGED → SHADOW → PROBATION → IDLE (committed: the candidate is stable)
                                      └── no stable ──↑
    and from each of them back to IDLE, with the status that ends the assignment.

The commit point is the journal entry of (PROBATION, VERDICT_PASS): before it a newer Desired pre-empts and nothing of
stable was touched; after it, what was stable is kept on disk as `previous`, so that a late halt can still go back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.core.state import Phase
from shared.wire import AssignmentStatus


class Signal(StrEnum):
    """What may befall a candidate."""

    WANTED = "wanted"
    """A Desired names a release that is to be tried."""
    ALREADY_STABLE = "already_stable"
    BLACKLISTED = "blacklisted"
    """The wanted artifact was reverted here before."""
    FETCHED = "fetched"
    FETCH_DELAYED = "fetch_delayed"
    CORRUPT = "corrupt"
    """Wrong bytes, more often than is chance."""
    REFUSED = "refused"
    """Repository and Desired disagree and go on to, or the release is more than this device takes."""
    TRIAL_PASSED = "trial_passed"
    TRIAL_DELAYED = "trial_delayed"
    TRIAL_FAILED = "trial_failed"
    ACTIVATE_BESIDE = "activate_beside"
    """A fresh Pulse allows it, and there is a stable release to compare with."""
    ACTIVATE_ALONE = "activate_alone"
    """A fresh Pulse allows it, and nothing answers yet."""
    STABLE_LOST = "stable_lost"
    """What the candidate was compared with can answer no more."""
    LOAD_FAILED = "load_failed"
    VERDICT_PASS = "verdict_pass"  # noqa: S105 - a verdict, not a password
    VERDICT_FAIL = "verdict_fail"
    INTERRUPTED = "interrupted"
    """A life of trial or serving ended while it held the candidate."""
    CRASH_LOOP = "crash_loop"
    """It was interrupted too often."""
    DAMAGED = "damaged"
    """The candidate's files fail verification at start."""
    HALT_STOP = "halt_stop"
    HALT_REVERT = "halt_revert"
    SUPERSEDED = "superseded"
    """A newer Desired names another assignment."""
    UNLISTED = "unlisted"
    """A newer Desired does not list the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Where a signal leads, and how it ends the assignment, if it does."""

    to: Phase
    ends: AssignmentStatus | None = None
    blacklists: bool = False
    """The artifact is not tried again on this device unless a Desired overrides it."""
    commits: bool = False
    """The candidate becomes stable."""


_CANCELED = Edge(to=Phase.IDLE, ends=AssignmentStatus.CANCELED)
_REJECTED = Edge(to=Phase.IDLE, ends=AssignmentStatus.REJECTED)
_FAILED = Edge(to=Phase.IDLE, ends=AssignmentStatus.FAILED, blacklists=True)
_ROLLED_BACK = Edge(to=Phase.IDLE, ends=AssignmentStatus.ROLLED_BACK, blacklists=True)
_SUPERSEDED = Edge(to=Phase.IDLE, ends=AssignmentStatus.SUPERSEDED)
_REMOVED = Edge(to=Phase.IDLE, ends=AssignmentStatus.REMOVED)
_COMMITTED = Edge(to=Phase.IDLE, ends=AssignmentStatus.SUCCEEDED, commits=True)

TABLE: dict[Phase, dict[Signal, Edge]] = {
    Phase.IDLE: {
        Signal.WANTED: Edge(to=Phase.DOWNLOADING),
        Signal.ALREADY_STABLE: Edge(to=Phase.IDLE, ends=AssignmentStatus.SUCCEEDED),
        Signal.BLACKLISTED: _REJECTED,
        # Halted before it began. What a halt does to a committed slot is no matter of phases: see halts.py.
        Signal.HALT_STOP: _CANCELED,
        Signal.HALT_REVERT: _CANCELED,
    },
    Phase.DOWNLOADING: {
        Signal.FETCHED: Edge(to=Phase.TRIAL),
        Signal.FETCH_DELAYED: Edge(to=Phase.DOWNLOADING),
        # The artifact never ran here, so its digest is not to blame: no blacklist.
        Signal.CORRUPT: Edge(to=Phase.IDLE, ends=AssignmentStatus.FAILED),
        Signal.REFUSED: _REJECTED,
        Signal.HALT_STOP: _CANCELED,
        Signal.HALT_REVERT: _CANCELED,
        Signal.SUPERSEDED: _SUPERSEDED,
        Signal.UNLISTED: _REMOVED,
    },
    Phase.TRIAL: {
        Signal.TRIAL_PASSED: Edge(to=Phase.STAGED),
        Signal.TRIAL_DELAYED: Edge(to=Phase.TRIAL),
        Signal.TRIAL_FAILED: _FAILED,
        Signal.INTERRUPTED: Edge(to=Phase.TRIAL),
        Signal.CRASH_LOOP: _FAILED,
        Signal.DAMAGED: Edge(to=Phase.DOWNLOADING),
        Signal.HALT_STOP: _CANCELED,
        Signal.HALT_REVERT: _CANCELED,
        Signal.SUPERSEDED: _SUPERSEDED,
        Signal.UNLISTED: _REMOVED,
    },
    Phase.STAGED: {
        Signal.ACTIVATE_BESIDE: Edge(to=Phase.SHADOW),
        Signal.ACTIVATE_ALONE: Edge(to=Phase.PROBATION),
        Signal.DAMAGED: Edge(to=Phase.DOWNLOADING),
        Signal.HALT_STOP: _CANCELED,
        Signal.HALT_REVERT: _CANCELED,
        Signal.SUPERSEDED: _SUPERSEDED,
        Signal.UNLISTED: _REMOVED,
    },
    Phase.SHADOW: {
        Signal.VERDICT_PASS: Edge(to=Phase.PROBATION),
        Signal.VERDICT_FAIL: _ROLLED_BACK,
        Signal.LOAD_FAILED: _ROLLED_BACK,
        Signal.STABLE_LOST: Edge(to=Phase.STAGED),
        Signal.INTERRUPTED: Edge(to=Phase.SHADOW),
        Signal.CRASH_LOOP: _ROLLED_BACK,
        Signal.DAMAGED: Edge(to=Phase.DOWNLOADING),
        # It has answered nobody yet, so there is nothing that could stay.
        Signal.HALT_STOP: _CANCELED,
        Signal.HALT_REVERT: _ROLLED_BACK,
        Signal.SUPERSEDED: _SUPERSEDED,
        Signal.UNLISTED: _REMOVED,
    },
    Phase.PROBATION: {
        Signal.VERDICT_PASS: _COMMITTED,
        Signal.VERDICT_FAIL: _ROLLED_BACK,
        Signal.LOAD_FAILED: _ROLLED_BACK,
        Signal.INTERRUPTED: Edge(to=Phase.PROBATION),
        Signal.CRASH_LOOP: _ROLLED_BACK,
        Signal.DAMAGED: Edge(to=Phase.DOWNLOADING),
        # What answers stays, under watch: `stop` stops activation, and this one is over.
        Signal.HALT_STOP: Edge(to=Phase.PROBATION),
        Signal.HALT_REVERT: _ROLLED_BACK,
        Signal.SUPERSEDED: _SUPERSEDED,
        Signal.UNLISTED: _REMOVED,
    },
}

_NOT_IDLE = "an idle model has no candidate that this could befall"
_NOT_YET = "an earlier phase ends first"
_OVER = "it belongs to an earlier phase; a late echo of it is dropped where events come in"
_BEGIN = "a candidate is ended by `superseded` before another begins"

IMPOSSIBLE: dict[Phase, dict[Signal, str]] = {
    Phase.IDLE: {
        **dict.fromkeys(set(Signal) - set(TABLE[Phase.IDLE]), _NOT_IDLE),
        Signal.SUPERSEDED: "nothing is under way that a newer Desired could replace",
        Signal.UNLISTED: "nothing is under way; the slots are dropped without an assignment",
    },
    Phase.DOWNLOADING: {
        **dict.fromkeys(
            (
                Signal.TRIAL_PASSED,
                Signal.TRIAL_DELAYED,
                Signal.TRIAL_FAILED,
                Signal.ACTIVATE_BESIDE,
                Signal.ACTIVATE_ALONE,
                Signal.STABLE_LOST,
                Signal.LOAD_FAILED,
                Signal.VERDICT_PASS,
                Signal.VERDICT_FAIL,
            ),
            _NOT_YET,
        ),
        Signal.INTERRUPTED: "a download is resumed, and an interruption says nothing of the release",
        Signal.CRASH_LOOP: "interruptions of a download are not counted",
        Signal.DAMAGED: "a half-written folder is what downloading is for",
    },
    Phase.TRIAL: dict.fromkeys(
        (
            Signal.ACTIVATE_BESIDE,
            Signal.ACTIVATE_ALONE,
            Signal.STABLE_LOST,
            Signal.LOAD_FAILED,
            Signal.VERDICT_PASS,
            Signal.VERDICT_FAIL,
        ),
        _NOT_YET,
    ),
    Phase.STAGED: {
        **dict.fromkeys((Signal.LOAD_FAILED, Signal.VERDICT_PASS, Signal.VERDICT_FAIL), _NOT_YET),
        Signal.STABLE_LOST: "nothing is compared; activation looks for stable by itself",
        Signal.INTERRUPTED: "nothing runs that could be interrupted",
        Signal.CRASH_LOOP: "nothing runs that could crash",
    },
    Phase.SHADOW: dict.fromkeys((Signal.ACTIVATE_BESIDE, Signal.ACTIVATE_ALONE), "it is activated"),
    Phase.PROBATION: {
        **dict.fromkeys((Signal.ACTIVATE_BESIDE, Signal.ACTIVATE_ALONE), "it is activated"),
        Signal.STABLE_LOST: "the candidate answers; probation goes on without a comparison",
    },
}
"""Why the rest of the pairs cannot occur. A test sees to it that each pair stands in one of the two tables."""

for _phase in set(Phase) - {Phase.IDLE}:
    for _signal in (Signal.WANTED, Signal.ALREADY_STABLE, Signal.BLACKLISTED):
        IMPOSSIBLE[_phase][_signal] = _BEGIN
for _phase in (Phase.TRIAL, Phase.STAGED, Phase.SHADOW, Phase.PROBATION):
    for _signal in (Signal.FETCHED, Signal.FETCH_DELAYED, Signal.CORRUPT, Signal.REFUSED):
        IMPOSSIBLE[_phase][_signal] = _OVER
for _phase in (Phase.STAGED, Phase.SHADOW, Phase.PROBATION):
    for _signal in (Signal.TRIAL_PASSED, Signal.TRIAL_DELAYED, Signal.TRIAL_FAILED):
        IMPOSSIBLE[_phase][_signal] = _OVER


def edge(phase: Phase, signal: Signal) -> Edge:
    """Return where `signal` leads from `phase`. Raises KeyError for a pair that IMPOSSIBLE explains."""
    return TABLE[phase][signal]
