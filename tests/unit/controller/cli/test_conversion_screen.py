"""What devices measured, as people read it."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from controller.cli.conversion_screen import milliseconds, show_artifacts, show_budgets, show_measurements
from controller.views import AccuracyView, ArtifactView, BudgetView, FiguresView, MeasurementView

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SHA = "ab" * 32
FIGURES = FiguresView(
    runs=100, cpu_p50_ms=11.2, cpu_p95_ms=12.5, wall_p50_ms=14.0, wall_p95_ms=31.75, peak_memory_bytes=9 * 1024**2
)


def measurement(state: str, *, figures: FiguresView | None = None, reason: str = "") -> MeasurementView:
    return MeasurementView(
        sha256=SHA,
        device_id="cam-7",
        state=state,
        reason=reason,
        figures=figures,
        runtime="ai-edge-litert",
        runtime_version="2.3.0",
        ended_at=NOW - timedelta(minutes=3),
    )


def shown(one: MeasurementView, *, width: int = 120) -> str:
    page = Console(file=io.StringIO(), width=width)
    show_measurements([one], {SHA: "full_int8"}, now=NOW, to=page)
    assert isinstance(page.file, io.StringIO)
    return page.file.getvalue()


def test_figures_are_shown_with_device_runtime_and_age() -> None:
    text = shown(measurement("done", figures=FIGURES))
    for word in ("full_int8", "cam-7", "11.2 ms", "12.5 ms", "31.8 ms", "9.0 MiB", "ai-edge-litert 2.3.0", "3 min ago"):
        assert word in text


def test_figures_on_a_narrow_page_leave_out_what_decides_least_and_fit() -> None:
    text = shown(measurement("done", figures=FIGURES), width=80)
    assert len(text.splitlines()) == 2
    for word in ("full_int8", "cam-7", "11.2 ms", "12.5 ms", "9.0 MiB", "3 min ago"):
        assert word in text
    assert "31.8 ms" not in text


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (measurement("failed", reason="crashed: SIGSEGV"), "failed: crashed: SIGSEGV"),
        (measurement("queued"), "queued"),
        (measurement("sent", figures=FIGURES), "again: sent"),
    ],
)
def test_standing_is_told_in_words(one: MeasurementView, said: str) -> None:
    assert said in shown(one)


def test_nothing_measured_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    show_measurements([], {}, now=NOW, empty="next: litefleet conversion measure")
    assert "next: litefleet conversion measure" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("measured_on", "kept", "words"),
    [("converter", True, ("the converter only", "keeps")), ("cam-7", False, ("cam-7", "breaks"))],
)
def test_budget_says_who_measured_and_what_follows(
    capsys: pytest.CaptureFixture[str], measured_on: str, *, kept: bool, words: tuple[str, ...]
) -> None:
    budget = BudgetView(profile_id="pi", max_latency_ms=30.0, latency_p95_ms=12.0, measured_on=measured_on, kept=kept)
    show_budgets([ArtifactView(scheme="full_int8", sha256=SHA, length_bytes=1, budgets=[budget])])
    text = " ".join(capsys.readouterr().out.split())
    assert all(word in text for word in ("pi", "30 ms", "12 ms", *words))


def test_artifact_that_was_refused_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    refused = ArtifactView(
        scheme="full_int8", sha256=SHA, length_bytes=1, accuracy=AccuracyView(), refused="accuracy_drop: 0.1 > 0.01"
    )
    show_artifacts([refused])
    assert "refused: accuracy_drop" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("time_ms", "text"), [(0.0421, "42.1 µs"), (1.0, "1 ms"), (123.4, "123 ms")])
def test_short_times_are_told_in_microseconds(time_ms: float, text: str) -> None:
    assert milliseconds(time_ms) == text
