"""The table of all that was tried, and the bar while it is tried."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from controller.cli.convert_screen import ProgressScreen, outcome_text, recipe_text, show_candidates
from controller.views import CandidateView, RecipeView

MIXED = RecipeView(scheme="mixed", kept_float=["a", "b"], correct_bias=True)


def _candidate(recipe: RecipeView, outcome: str, *, pareto: bool = False, sha256: str = "0") -> CandidateView:
    return CandidateView(
        recipe=recipe,
        sha256=sha256,
        length_bytes=2048,
        latency_ms=1.5,
        agreement=0.99,
        accuracy=0.98,
        snr_db=30.0,
        pareto=pareto,
        outcome=outcome,
    )


def _shown(width: int, *candidates: CandidateView) -> list[str]:
    sink = io.StringIO()
    show_candidates(candidates, {"0": 0.0064}, to=Console(file=sink, width=width))
    return sink.getvalue().splitlines()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (RecipeView(scheme="float16"), "float16"),
        (MIXED, "mixed bias +2 float"),
        (
            RecipeView(scheme="full_int8", calibration="mse", equalise=True, integer_io=True, per_tensor=True),
            "full_int8 mse per-tensor equalised int-io",
        ),
    ],
)
def test_recipe_is_told_in_few_words(recipe: RecipeView, words: str) -> None:
    assert recipe_text(recipe) == words


def test_table_wide_shows_everything_and_marks_what_nothing_beats() -> None:
    head, row = _shown(120, _candidate(MIXED, "chosen: generic", pareto=True))
    assert head.split() == ["RECIPE", "SIZE", "ACCURACY", "LOSS", "≤", "SNR", "LATENCY", "OUTCOME"]
    assert row.split("  ")[0] == "●"
    for cell in ("mixed bias +2 float", "2.0 KiB", "98.00 %", "0.64 pt", "30.0 dB", "1.50 ms", "chosen: generic"):
        assert cell in row


def test_table_narrow_leaves_out_what_decides_least_and_fits() -> None:
    lines = _shown(80, _candidate(MIXED, "search: " + "a very long reason " * 5))
    assert "SNR" not in lines[0]
    assert max(map(len, lines)) <= 80


def test_table_without_labels_shows_agreement() -> None:
    unlabelled = _candidate(MIXED, "chosen: generic")
    head, row = _shown(120, msgspec.structs.replace(unlabelled, accuracy=None))
    assert "AGREES" in head
    assert "99.00 %" in row


def test_table_shows_dashes_for_what_could_not_be_made() -> None:
    failed = msgspec.structs.replace(_candidate(MIXED, "failed: no kernel"), length_bytes=0, snr_db=None)
    assert _shown(120, failed)[1].count("–") == 4


@pytest.mark.parametrize(
    ("outcome", "style"),
    [
        ("chosen: pi5", "green"),
        ("failed: no kernel", "red"),
        ("search: another is better", "dim"),
        ("gate: accuracy_drop", "yellow"),
    ],
)
def test_outcome_keeps_its_words_whatever_its_colour(outcome: str, style: str) -> None:
    shown = outcome_text(outcome)
    assert (shown.plain, shown.style) == (outcome, style)


def test_progress_in_a_log_is_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressScreen("convert") as screen:
        for step, fraction in (("check data", 0.0), ("check data", 0.01), ("search: [red]mixed", 0.5)):
            screen.show(step, fraction)
    assert capsys.readouterr().err.splitlines() == ["convert: check data", "convert: search: [red]mixed"]


def test_progress_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressScreen("convert", quiet=True) as screen:
        screen.show("check data", 0.0)
    assert capsys.readouterr().err == ""
