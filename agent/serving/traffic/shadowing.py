"""Runs on copies of requests whose answers have been written, and what comparing them shows.

Whoever runs on a copy answers nobody, waits until a worker has nothing else to do, and is dropped first under load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.serving.models.workers import SHADOW_QUEUE_LENGTH
from shared.errors import ModelFailedError, PipelineError

if TYPE_CHECKING:
    from agent.serving.errors import InferenceTimeoutError
    from agent.serving.exchange import LiveLine, Reply
    from agent.serving.models.resident import Resident
    from agent.serving.recording.recorder import Recorder
    from agent.serving.requests import Outcome, Request
    from agent.serving.traffic.comparison import PairTally

    Result = Outcome | PipelineError


class Shadowing:
    """All methods belong to the event loop."""

    def __init__(self, recorder: Recorder) -> None:
        """Count in `recorder`."""
        self._recorder = recorder

    def after(self, reply: Reply, *, is_busy: bool) -> None:
        """Have a request run by those that are compared with who answered it.

        Under load one run may wait, so that a busy device still reaches a verdict; in quiet times, several.
        """
        limit, line = 1 if is_busy else SHADOW_QUEUE_LENGTH, reply.line
        # A version asked for by name is answered and not compared: it is no sample of what callers send.
        if reply.ask.version is not None and reply.instance is not line.primary:
            return
        other = line.beside(reply.instance)
        # A share of a batch is less than what the other would take alone; a rescue has been counted.
        if other is not None and reply.outcome.batch == 1 and not reply.rescued:
            other.run_shadow(reply.ask.request, lambda result: self._own(reply, other, result), limit=limit)
        for follower in reply.route.followers:
            self._follow(reply, follower, limit)

    def rescued(
        self,
        line: LiveLine,
        *,
        candidate: Resident,
        stable: Resident,
        failure: PipelineError | InferenceTimeoutError,
        outcome: Outcome,
    ) -> None:
        """Count a request that the candidate failed, and stable answered in its place."""
        result = failure if isinstance(failure, PipelineError) else ModelFailedError(str(failure))
        self._count(line, candidate, stable, candidate_result=result, stable_result=outcome)

    def _own(self, reply: Reply, other: Resident, result: Result) -> None:
        """Count what the other of a line's comparison made of a request that this one answered."""
        self._ran(reply.line, other, result)
        if other is reply.line.candidate:
            self._count(reply.line, other, reply.instance, candidate_result=result, stable_result=reply.outcome)
        else:
            self._count(reply.line, reply.instance, other, candidate_result=reply.outcome, stable_result=result)

    def _follow(self, reply: Reply, line: LiveLine, limit: int) -> None:
        """Run a request on a line that answers nobody: the rule's shadow, or one with a candidate to be judged."""
        first, request = line.primary, reply.ask.request
        if first is None:
            return
        by_rule = reply.route.rule is not None and reply.route.rule.shadow == line.variant

        def ran(result: Result) -> None:
            self._ran(line, first, result)
            if by_rule:
                tally = self._shadow_tally(line, shadow=first, answered=reply.instance)
                # Its share of a batch says how it answers, and not how fast it is.
                tally.count(
                    candidate=result,
                    stable=reply.outcome,
                    max_ratio=line.max_latency_ratio,
                    is_timed=reply.outcome.batch == 1,
                )
            self._run_beside(line, first, result, request, limit)

        first.run_shadow(request, ran, limit=limit)

    def _run_beside(self, line: LiveLine, first: Resident, earlier: Result, request: Request, limit: int) -> None:
        """Run the other of a comparison whose line has no requests of its own."""
        other = line.beside(first)
        if other is None:
            return

        def ran(result: Result) -> None:
            self._ran(line, other, result)
            if other is line.candidate:
                self._count(line, other, first, candidate_result=result, stable_result=earlier)
            else:
                self._count(line, first, other, candidate_result=earlier, stable_result=result)

        other.run_shadow(request, ran, limit=limit)

    def _ran(self, line: LiveLine, who: Resident, result: Result) -> None:
        if not isinstance(result, PipelineError):
            self._recorder.series(line.line, who.slot.release_id).ran(result)

    def _count(
        self, line: LiveLine, candidate: Resident, stable: Resident, *, candidate_result: Result, stable_result: Result
    ) -> None:
        tally = self._recorder.pairs(line.line, candidate=candidate.slot.release_id, stable=stable.slot.release_id)
        tally.count(candidate=candidate_result, stable=stable_result, max_ratio=line.max_latency_ratio)

    def _shadow_tally(self, line: LiveLine, *, shadow: Resident, answered: Resident) -> PairTally:
        return self._recorder.pairs(
            line.line, candidate=shadow.slot.release_id, stable=answered.slot.release_id, by_rule=True
        )
