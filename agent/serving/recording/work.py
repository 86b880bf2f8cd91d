"""What a release's work took, as integers: what the statistics extension tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.serving.recording.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Counts and nanoseconds of one release since it was loaded, over all protocols."""

    success_count: int
    success_ns: int
    fail_count: int
    fail_ns: int
    queue_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    inferences: int
    executions: int
    last_s: float | None
    """When (monotonic) the last request was received; None before the first."""


def summed(tallies: Collection[Tally]) -> Work:
    """Return what tallies whose rows are all counted come to."""
    return Work(
        success_count=sum(each.success_count for each in tallies),
        success_ns=sum(each.success_ns for each in tallies),
        fail_count=sum(each.fail_count for each in tallies),
        fail_ns=sum(each.fail_ns for each in tallies),
        queue_ns=sum(each.queue_ns for each in tallies),
        input_ns=sum(each.pre_ns for each in tallies),
        infer_ns=sum(each.invoke_ns for each in tallies),
        output_ns=sum(each.post_ns for each in tallies),
        inferences=sum(each.items for each in tallies),
        executions=sum(each.runs for each in tallies),
        last_s=max((each.last_s for each in tallies if each.last_s is not None), default=None),
    )
