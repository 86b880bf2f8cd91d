"""The table of a benchmark: what is told of a mode, and of what was not measured."""

from __future__ import annotations

from agent.serving.bench.bench_table import render
from agent.serving.bench.run import BenchReport, Cost
from shared.probe import BatchTiming, ExecutionMode, ModelProbe, ThreadTiming

WORKERS = ModelProbe(
    mode=ExecutionMode.WORKERS,
    workers=2,
    threads=1,
    batches=(4,),
    by_threads=(ThreadTiming(threads=1, p50_ms=3.5), ThreadTiming(threads=2, p50_ms=3.0)),
    by_batch=(BatchTiming(batch=1, p50_ms=3.5), BatchTiming(batch=4, p50_ms=8.0)),
    interpreter_bytes=3 << 20,
)


def report(*protocols: Cost, probe: ModelProbe = WORKERS, has_grpc: bool = True) -> BenchReport:
    return BenchReport(
        model="digits.tflite",
        size_bytes=2048,
        inputs=("x float32 1×4",),
        outputs=("y float32 1×3",),
        asked_with="numbers, 1×4",
        load_ms=120.0,
        probe=probe,
        raw=Cost(name="bare invocation", cpu_us=3500.0, p50_ms=3.5, p99_ms=3.9, answers=9, over_raw=1.0),
        pipeline=None,
        protocols=protocols,
        has_grpc=has_grpc,
    )


def test_probe_is_told_with_what_was_chosen_by_it() -> None:
    text = render(report())
    assert "in 2 workers, 1 thread each" in text
    assert "1: 3.500 ms · 2: 3.000 ms" in text
    assert "4: 2.000 ms a row; joined to: 4" in text
    assert "3.0 MiB for one more interpreter" in text


def test_row_tells_what_a_protocol_adds() -> None:
    row = Cost(name="MAX", cpu_us=3700.0, p50_ms=3.8, p99_ms=4.0, answers=5, adds_us=200.0, over_raw=3700 / 3500)
    (line,) = (each for each in render(report(row)).splitlines() if each.startswith("MAX"))
    assert line.split() == ["MAX", "3700.0", "200.0", "1.1", "3.800", "4.000"]


def test_what_was_refused_is_no_figure() -> None:
    text = render(report(Cost(name="MAX", refused="400 body: holds no item")))
    assert "not measured: 400 body: holds no item" in text


def test_missing_grpc_is_said_with_what_mends_it() -> None:
    assert "pip install" in render(report(has_grpc=False))
    assert "pip install" not in render(report())
