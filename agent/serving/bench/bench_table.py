"""A benchmark as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.probe import ExecutionMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.serving.bench.run import BenchReport, Cost
    from shared.probe import ModelProbe

_WIDTH = 28


def render(report: BenchReport) -> str:
    """Return the whole report."""
    return "\n".join(_lines(report))


def _lines(report: BenchReport) -> Iterator[str]:
    yield f"{report.model}: {_bytes(report.size_bytes)}"
    yield f"  takes  {', '.join(report.inputs)}"
    yield f"  gives  {', '.join(report.outputs)}"
    yield f"  asked  with {report.asked_with}, over one connection"
    yield ""
    yield f"probe at load ({report.load_ms:.0f} ms with loading)"
    yield from _probe(report.probe)
    yield ""
    yield f"{'':{_WIDTH}} {'CPU µs':>9} {'adds µs':>9} {'× bare':>8} {'p50 ms':>9} {'p99 ms':>9}"
    yield _row(report.raw)
    if report.pipeline is not None:
        yield _row(report.pipeline)
    yield from (_row(each) for each in report.protocols)
    yield ""
    limit = "bare invocation" if report.pipeline is None else "pipeline without a server"
    yield f"CPU is of all the server's threads for one answer; adds: beyond the {limit}; no key is checked here."
    if not report.has_grpc:
        yield "gRPC is not installed, and was not measured: pip install 'litefleet[agent,grpc]'"


def _probe(probe: ModelProbe) -> Iterator[str]:
    threads = f"{probe.threads} thread{'' if probe.threads == 1 else 's'}"
    if probe.mode is ExecutionMode.INLINE:
        yield f"  runs     on the event loop, {threads}: it takes no longer than handing it over would"
    else:
        yield f"  runs     in {probe.workers} worker{'' if probe.workers == 1 else 's'}, {threads} each"
    yield f"  threads  {' · '.join(f'{each.threads}: {each.p50_ms:.3f} ms' for each in probe.by_threads)}"
    timed = [f"{each.batch}: {each.p50_ms / each.batch:.3f} ms a row" for each in probe.by_batch]
    joined = ", ".join(map(str, probe.batches)) or "none, too little is gained"
    yield f"  batches  {' · '.join(timed)}; joined to: {joined}"
    yield f"  memory   {_bytes(probe.interpreter_bytes)} for one more interpreter"


def _row(cost: Cost) -> str:
    if cost.refused:
        return f"{cost.name:{_WIDTH}} not measured: {cost.refused}"
    adds = "" if cost.adds_us is None else f"{cost.adds_us:.1f}"
    over = "" if cost.over_raw is None else f"{cost.over_raw:.1f}"
    return f"{cost.name:{_WIDTH}} {cost.cpu_us:9.1f} {adds:>9} {over:>8} {cost.p50_ms:9.3f} {cost.p99_ms:9.3f}"


def _bytes(count: int) -> str:
    kib = count / 1024
    return f"{kib:.1f} KiB" if kib < 1024 else f"{kib / 1024:.1f} MiB"  # noqa: PLR2004 - of a MiB
