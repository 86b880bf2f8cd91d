"""How assignments are counted: every fact of a device becomes numbers that add up, so that a change costs O(1).

What an assignment counts as:

    status        reason                                   counts as
    queued        not told yet                             waiting
    queued        told                                     queued       in flight
    queued        told, nobody has seen the device         unreachable  excused until it reports
    in_progress   `inconclusive: …`                        undecided    in flight
    in_progress   any other                                in_progress  in flight
    succeeded                                              succeeded
    failed        any                                      failed
    rolled_back   `halted`, `superseded`                   dismissed    it was told to
    rolled_back   any other                                failed
    rejected      no_fitting_artifact, not_enrolled,       dismissed    it was never meant to run this, or could
                  in_other_rollout, desired_too_large,                  never be told
                  agent_too_old
    rejected      any other                                failed       `blacklisted`: it has reverted these very
                                                                        bytes before; a refused signature or counter:
                                                                        the release cannot go out like this
    timed_out                                              failed       silence after the start is no success
    canceled, removed, superseded                          dismissed
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.wire import TERMINAL, AssignmentStatus, PairedCounts

if TYPE_CHECKING:
    from collections.abc import Iterable

PPM = 1_000_000
"""Flip rates are summed as whole millionths, so that adding and taking away again leaves nothing behind."""
INCONCLUSIVE = "inconclusive"
NO_FITTING_ARTIFACT = "no_fitting_artifact"
NOT_ENROLLED = "not_enrolled"
IN_OTHER_ROLLOUT = "in_other_rollout"
DESIRED_TOO_LARGE = "desired_too_large"
AGENT_TOO_OLD = "agent_too_old"
HALTED = "halted"
SUPERSEDED = "superseded"
_NOT_MEANT_FOR_IT = frozenset({NO_FITTING_ARTIFACT, NOT_ENROLLED, IN_OTHER_ROLLOUT, DESIRED_TOO_LARGE, AGENT_TOO_OLD})
_TOLD_TO = frozenset({HALTED, SUPERSEDED})


class Outcome(StrEnum):
    """What an assignment counts as."""

    WAITING = "waiting"
    QUEUED = "queued"
    UNREACHABLE = "unreachable"
    IN_PROGRESS = "in_progress"
    UNDECIDED = "undecided"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentFacts:
    """What the core knows of one assignment."""

    status: AssignmentStatus = AssignmentStatus.QUEUED
    reason: str = ""
    opened: bool = False
    """The device has been told."""
    activated: bool = False
    unreachable: bool = False
    """Told, but nobody has seen the device since, for longer than the rollout waits."""
    going_back: bool = False
    """Told to go back after a halt, and not yet known to be back."""
    flip_ppm: int | None = None
    """Share of the device's paired requests answered differently, in millionths; None without enough pairs."""


def reason_word(reason: str) -> str:
    """Return the machine-readable word of a reason, without the detail after the colon."""
    return reason.partition(":")[0].strip()


def outcome(facts: AssignmentFacts) -> Outcome:
    """Return what an assignment counts as."""
    word = reason_word(facts.reason)
    match facts.status:
        case AssignmentStatus.QUEUED:
            if not facts.opened:
                return Outcome.WAITING
            return Outcome.UNREACHABLE if facts.unreachable else Outcome.QUEUED
        case AssignmentStatus.IN_PROGRESS:
            return Outcome.UNDECIDED if word == INCONCLUSIVE else Outcome.IN_PROGRESS
        case AssignmentStatus.SUCCEEDED:
            return Outcome.SUCCEEDED
        case AssignmentStatus.FAILED | AssignmentStatus.TIMED_OUT:
            return Outcome.FAILED
        case AssignmentStatus.ROLLED_BACK:
            return Outcome.DISMISSED if word in _TOLD_TO else Outcome.FAILED
        case AssignmentStatus.REJECTED:
            return Outcome.DISMISSED if word in _NOT_MEANT_FOR_IT else Outcome.FAILED
        case AssignmentStatus.CANCELED | AssignmentStatus.REMOVED | AssignmentStatus.SUPERSEDED:
            return Outcome.DISMISSED


def may_become(before: AssignmentStatus, after: AssignmentStatus) -> bool:
    """Say whether a status may follow another: terminal is sticky, and nobody un-starts."""
    if before in TERMINAL:
        return after is before
    return after is not AssignmentStatus.QUEUED or before is AssignmentStatus.QUEUED


def flip_ppm(paired: PairedCounts | None, *, min_pairs: int) -> int | None:
    """Return a device's flip rate in millionths, or None when its pairs are too few to be evidence."""
    if paired is None or paired.pairs < max(min_pairs, 1):
        return None
    return round(PPM * paired.flips / paired.pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Assignments counted. `members` is the sum of the eight outcomes."""

    members: int = 0
    waiting: int = 0
    queued: int = 0
    unreachable: int = 0
    in_progress: int = 0
    undecided: int = 0
    succeeded: int = 0
    failed: int = 0
    dismissed: int = 0
    opened: int = 0
    """Devices that were ever told."""
    activated: int = 0
    exposed: int = 0
    """Devices that activated, or failed before: the trials of the failure guard."""
    going_back: int = 0
    paired: int = 0
    """Devices with enough pairs."""
    flip_ppm: int = 0
    flip_ppm_squared: int = 0

    @property
    def in_flight(self) -> int:
        """Devices that were told, are there, and have no result."""
        return self.queued + self.in_progress + self.undecided

    def plus(self, other: Tally, sign: int = 1) -> Tally:
        """Return the sum, or with sign -1 the difference."""
        values = {one.name: getattr(self, one.name) + sign * getattr(other, one.name) for one in fields(self)}
        return Tally(**values)


def count(facts: AssignmentFacts) -> Tally:
    """Return the tally of one assignment."""
    kind = outcome(facts)
    failed = kind is Outcome.FAILED
    activated = facts.activated or kind is Outcome.SUCCEEDED
    rate = facts.flip_ppm
    values = {
        "members": 1,
        kind.value: 1,
        "opened": int(facts.opened),
        "activated": int(activated),
        "exposed": int(activated or failed),
        "going_back": int(facts.going_back),
        "paired": int(rate is not None),
        "flip_ppm": rate or 0,
        "flip_ppm_squared": (rate or 0) ** 2,
    }
    return Tally(**values)


def recount(every: Iterable[AssignmentFacts]) -> Tally:
    """Return the tally from scratch: O(all), for audits."""
    total = Tally()
    for facts in every:
        total = total.plus(count(facts))
    return total
