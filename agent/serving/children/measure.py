"""Timing an artifact that is no release, in a child like a trial's. Imports no numpy.

`run_measurement` is control's end; `python -m agent.serving.children.measure` is the child.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import msgspec

from agent.core.plan import MeasureRequest, MeasureResult
from agent.serving.children import confined

_NAME = "measurement"
_POLITENESS = 10
"""Inference goes before: what a busy device takes away shows in elapsed time alone, never in processor time."""


async def run_measurement(request: MeasureRequest) -> MeasureResult:
    """Measure an artifact. Whatever becomes of the child is a result; a child that gives none has failed."""
    short = confined.memory_short((Path(request.path),), request, name=_NAME)
    if short:
        return MeasureResult(reason=short)
    result = await confined.ask(
        __name__, msgspec.json.encode(request), MeasureResult, deadline_s=request.deadline_s, name=_NAME
    )
    return MeasureResult(reason=result.reason) if isinstance(result, confined.Failure) else result


def _measure(request: MeasureRequest) -> MeasureResult:
    with contextlib.suppress(OSError):
        os.nice(_POLITENESS)
    # Only now, under the limits, and never in the process that merely calls `run_measurement`.
    from agent.serving.children.measure_child import measure_artifact  # noqa: PLC0415 - see the line above

    return measure_artifact(request)


if __name__ == "__main__":
    sys.exit(confined.answer_one(MeasureRequest, _measure))
