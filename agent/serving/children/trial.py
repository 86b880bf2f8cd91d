"""The trial of a release in a child process that may crash, hang or swell without harm. Imports no numpy.

`run_trial` is control's end; `python -m agent.serving.children.trial` is the child.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from agent.core.plan import TrialRequest, TrialResult
from agent.serving.children import confined

_NAME = "trial"


async def run_trial(request: TrialRequest) -> TrialResult:
    """Try a release. Whatever becomes of the child is a result; a child that gives none has failed."""
    short = confined.memory_short(_models(Path(request.folder)), request, name=_NAME)
    if short:
        return TrialResult(passed=False, reason=short)
    result = await confined.ask(
        __name__, msgspec.json.encode(request), TrialResult, deadline_s=request.deadline_s, name=_NAME
    )
    return TrialResult(passed=False, reason=result.reason) if isinstance(result, confined.Failure) else result


def _models(folder: Path) -> list[Path]:
    return [folder / "model.tflite", *sorted(folder.glob("components/*.tflite"))]


def _try(request: TrialRequest) -> TrialResult:
    # Only now, under the limits, and never in the process that merely calls `run_trial`.
    from agent.serving.children.trial_child import try_release  # noqa: PLC0415 - see the line above

    return try_release(request)


if __name__ == "__main__":
    sys.exit(confined.answer_one(TrialRequest, _try))
