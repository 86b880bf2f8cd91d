"""What a release's work took, as running sums of integers: what the statistics extension tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.serving.exchange import Reply

_NS, _NS_IN_MS = 1_000_000_000, 1_000_000


class Work:
    """Counts and nanoseconds of one release since it was loaded. Additions only: this is on every request's way."""

    __slots__ = (
        "executions",
        "fail_count",
        "fail_ns",
        "infer_ns",
        "inferences",
        "input_ns",
        "last_s",
        "output_ns",
        "queue_ns",
        "success_count",
        "success_ns",
    )

    def __init__(self) -> None:
        self.success_count = self.success_ns = self.fail_count = self.fail_ns = 0
        self.queue_ns = self.input_ns = self.infer_ns = self.output_ns = 0
        self.inferences = self.executions = 0
        self.last_s: float | None = None
        """When (monotonic) the last request was received; None before the first."""

    def answered(self, reply: Reply, *, ready_s: float) -> None:
        """Add an answer that was ready to be sent at `ready_s` (monotonic)."""
        ask, outcome = reply.ask, reply.outcome
        received_s, asked_s = ask.received_s, reply.asked_s
        began_s, invoked_s, _, runs = outcome.moments
        took_ns, queue_ns = int((ready_s - received_s) * _NS), int((began_s - asked_s) * _NS)
        # Parsing before the wait, the pipeline's steps behind it.
        input_ns = int((asked_s - received_s + invoked_s - began_s) * _NS)
        infer_ns = int(outcome.invoke_ms * _NS_IN_MS)
        self.success_count += 1
        self.success_ns += took_ns
        self.queue_ns += queue_ns
        self.input_ns += input_ns
        self.infer_ns += infer_ns
        # Whatever is left, so that the four parts make up the whole.
        self.output_ns += took_ns - queue_ns - input_ns - infer_ns
        self.inferences += ask.request.rows
        self.executions += runs
        self.last_s = received_s

    def failed(self, took_s: float) -> None:
        """Add a request that got no answer, `took_s` after it was received."""
        self.fail_count += 1
        self.fail_ns += int(took_s * _NS)
